"""The article's statements S1 to S15, in our own words, and which claim measures each, or why none does."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.claims.claim import Words


@dataclass(frozen=True)
class Statement:
    """One statement of the article.

    Args:
        name: S1 to S15.
        code: where it lives in the library.
        text: in our own words.
        claims: the numbers of the claims that measure it.
        why_not: where no claim does, the reason; else what is left unmeasured, or nothing.
    """

    name: str
    code: str
    text: Words
    claims: tuple[int, ...] = ()
    why_not: Words | None = None


STATEMENTS = (
    Statement(
        "S1",
        "`VAE.decoder`, `VAE.sample`",
        Words(
            "VAE and GAN both take a latent variable z of a simple distribution and turn it into data by a learned map "
            "x = g(z): both map one probability distribution to another.",
            "VAE 与 GAN 都从服从简单分布的隐变量 z 出发，用学到的映射 x = g(z) 得到数据：两者都是概率分布之间的变换。",
        ),
        why_not=Words(
            "Not a measurable statement: it says what both models are.",
            "这不是可测量的陈述：它只说明两种模型是什么。",
        ),
    ),
    Statement(
        "S2",
        "`evaluation.importance_bound`",
        Words(
            "The generated distribution should be as near as possible to that of the data, but both are known by "
            "samples "
            "alone, so no ready distance of two densities can be computed.",
            "希望生成的分布尽量接近数据的分布，但两者都只有样本，因此没有现成的、可以直接计算的密度之间的距离。",
        ),
        why_not=Words(
            "Not a measurable statement but the problem that the others solve. What can be had instead is a bound on "
            "log p(x), which is a distance to the data's distribution up to a constant: every evidence in nats on this "
            "page.",
            "这不是可测量的陈述，而是其余各条要解决的问题。可以得到的是 log p(x) 的下界，它与到数据分布的 KL "
            "距离只差一个常数："
            "本页中所有以 nat 为单位的证据都是它。",
        ),
    ),
    Statement(
        "S3",
        "`claims.c10_learned_metric`",
        Words(
            "The GAN learns the measure of nearness as well, which is powerful and hard to interpret; the VAE is more "
            "transparent, and diffusion models follow from it.",
            "GAN 把度量本身也学出来，强大但难以解释；VAE 更透明，由它可以自然地走向扩散模型。",
        ),
        (10,),
        Words(
            'The learned measure is set against the pixel error; "transparent" and "natural" are opinions.',
            "这里把学到的度量与像素误差相比较；“透明”“自然”属于看法，不作测量。",
        ),
    ),
    Statement(
        "S4",
        "`evaluation.evidence_bound`",
        Words(
            "p(x) = sum over z of p(x|z) p(z): draw z from a normal, relate it to x, and p(x) is there.",
            "p(x) = Σ_z p(x|z) p(z)：从正态分布抽取 z，把它与 x 联系起来，就得到 p(x)。",
        ),
        (9,),
    ),
    Statement(
        "S5",
        "`DiagonalGaussian`",
        Words(
            "What is assumed normal is not p(z) but the posterior: each sample x_k has a p(z|x_k) of its own, an "
            "independent normal, which tells the generator what a drawn z must become. n samples, n normals.",
            "真正假设为正态的不是 p(z)，而是后验：每个样本 x_k 都有自己专属的、各分量独立的正态分布 p(z|x_k)，"
            "生成器才知道抽到的 z 应还原成哪个 x_k。n 个样本就有 n 个正态分布。",
        ),
        (9,),
        Words(
            "That it is \"of its own\" is what makes claim 9's estimator work: z from x's own normal against z from "
            "N(0, I). "
            "That the true posterior is normal is an assumption, not a finding.",
            "“专属”正是主张 9 的估计量有效的原因：z 取自 x 自己的正态，而不是取自 N(0, I)。真实后验是否正态只是假设，"
            "并非结论。",
        ),
    ),
    Statement(
        "S6",
        "`DiagonalGaussian(mean=f1, log_variance=f2)`",
        Words(
            "Networks fit its parameters: mu_k = f1(x_k) and log sigma_k^2 = f2(x_k); the logarithm because a variance "
            "must be positive and its logarithm need not, so that no activation is needed.",
            "用网络拟合其参数：μ_k = f1(x_k)，log σ_k² = f2(x_k)；取对数是因为方差必须为正而其对数可正可负，"
            "因此不需要激活函数。",
        ),
        (7,),
    ),
    Statement(
        "S7",
        "`VAE.terms`, `Gaussian`",
        Words(
            "Draw z_k from that normal, decode it, and make the squared error to x_k small, since z_k came from x_k's "
            "own "
            "normal.",
            "从该正态中抽取 z_k，解码得到 x̂_k，并最小化它与 x_k 的平方误差，因为 z_k 来自 x_k 专属的正态。",
        ),
        (1, 2),
        Words(
            "How the loss is built. What it does when left alone is claim 1; at which scale it enters is claim 2.",
            "这是损失的构造方式。只有这一项会怎样，见主张 1；它以什么尺度进入损失，见主张 2。",
        ),
    ),
    Statement(
        "S8",
        "`DiagonalGaussian(mean, log_variance, trunk)`",
        Words(
            "Mean and variance are both computed by encoders: the VAE has two.",
            "均值与方差都由编码器计算：VAE 有两个编码器。",
        ),
        (6,),
    ),
    Statement(
        "S9",
        "`ELBO(beta=0)`, `Dirac`",
        Words(
            "The noise in z_k makes reconstruction harder and its strength is learned; so minimising the "
            "reconstruction "
            "error alone drives the variance to 0, every draw equals the mean, and an ordinary autoencoder is left.",
            "z_k 中的噪声使重构变难，而噪声强度是学出来的；所以只最小化重构误差会把方差推向 0，采样结果总等于均值，"
            "VAE 退化成普通自编码器。",
        ),
        (1,),
    ),
    Statement(
        "S10",
        "`StandardNormal`, `VAE.sample`, `evaluation.aggregate`",
        Words(
            "So every p(z|x) is pulled to N(0, I), which keeps the noise alive and gives the ability to generate: if "
            "all "
            "are near N(0, I), then p(z) = sum over x of p(z|x) p(x) is N(0, I), and one may generate from it.",
            "因此让每个 p(z|x) 都向 N(0, I) 看齐，既保住噪声又得到生成能力：若所有 p(z|x) 都接近 N(0, I)，"
            "则 p(z) = Σ_x p(z|x) p(x) = N(0, I)，可以从 N(0, I) 采样生成。",
        ),
        (3, 1),
    ),
    Statement(
        "S11",
        '`NaivePenalty(mean_weight, variance_weight)`, `Gaussian(variance="optimal")`',
        Words(
            "The naive way is two more losses, |mu|^2 and |log sigma^2|^2, whose ratio must be chosen, and chosen "
            "badly it "
            "blurs the images; with the KL no ratio between mean and variance has to be chosen.",
            "朴素的做法是再加两个损失 ‖μ‖² 与 ‖log σ²‖²，但两者的比例需要选取，选得不好图像会模糊；用 KL "
            "散度就不必选取均值与方差之间的比例。",
        ),
        (2,),
    ),
    Statement(
        "S12",
        "`Terms.kl_parts`",
        Words(
            "The KL splits into L_mu = 1/2 sum mu_i^2 and L_sigma = 1/2 sum (sigma_i^2 - log sigma_i^2 - 1).",
            "KL 可以拆成 L_μ = ½ Σ μ_i² 与 L_σ = ½ Σ (σ_i² − log σ_i² − 1) 两部分。",
        ),
        (4,),
    ),
    Statement(
        "S13",
        "`ELBO`, `VAE`",
        Words(
            "What a VAE is: an autoencoder whose mean code gets Gaussian noise, so that the decoder is robust to it, "
            "and a "
            "KL regulariser on the encoder (mean 0, variance 1).",
            "VAE 的本质：在自编码器的均值编码上加高斯噪声，使解码器对噪声鲁棒，再对编码器加 KL 正则（均值 0、方差 1）。"
            "",
        ),
        (1, 4),
        Words(
            "The reading as such is a definition; the robustness of the decoder is measured in claim 1, the two halves "
            "of "
            "the regulariser in claim 4.",
            "这种解读本身是定义；解码器的鲁棒性在主张 1 中测量，正则项的两半在主张 4 中测量。",
        ),
    ),
    Statement(
        "S14",
        "`sigma`, `kl`: `metrics.jsonl`, `report.html`",
        Words(
            "The variance encoder tunes the noise: while the decoder is untrained the noise is lowered (the KL rises) "
            "to "
            "make fitting easier; once the decoder is good the noise grows (the KL falls) and the decoder must "
            "improve.",
            "方差编码器调节噪声：解码器还没训练好时降低噪声（KL 上升），使拟合容易；解码器训练好之后增大噪声（KL 下降）"
            "，"
            "迫使解码器继续提高。",
        ),
        (5,),
    ),
    Statement(
        "S15",
        "`ClassConditional`, `VAE.sample(n, label)`",
        Words(
            "The conditional VAE with the least change: every class owns a learned mean mu^y, the variance stays one; "
            "choosing the mean chooses the class of what is generated.",
            "改动最小的条件 VAE：每个类别拥有一个学到的均值 μ^Y，方差仍为 1；选定均值就选定了生成样本的类别。",
        ),
        (8,),
    ),
)
