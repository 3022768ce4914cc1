// What the page asks the server for. Addresses are relative, so that it works behind the path of a proxy.

const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

export class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function answer(promise) {
  let response;
  try {
    response = await promise;
  } catch {
    throw new Refusal(0, "The server does not answer. Is `sfumato explore` still running?");
  }
  if (response.ok) return response;
  let sentence = `The server refused (${response.status}).`;
  try {
    sentence = (await response.json()).error ?? sentence;
  } catch { /* not json */ }
  throw new Refusal(response.status, sentence);
}

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const { arrays, ...facts } = head;
  const found = {};
  for (const [name, { type, shape, start }] of Object.entries(arrays)) {
    const count = shape.reduce((a, b) => a * b, 1);
    found[name] = new TYPES[type](buffer, 4 + length + start, count);
    found[name].shape = shape;
  }
  return { ...facts, ...found };
}

const get = (path) => answer(fetch(`explorer/${path}`));
const post = (path, body, type = "application/octet-stream") =>
  answer(fetch(`explorer/${path}`, { method: "POST", body, headers: { "Content-Type": type } }));
const packed = async (response) => unpack(await (await response).arrayBuffer());
const withClass = (path, y) => (y === null || y === undefined || y < 0 ? path : `${path}?class=${y}`);

export const server = {
  live: true,
  state: async () => (await get("state")).json(),
  points: () => packed(get("points")),
  atlas: async (version) => createImageBitmap(await (await get(`atlas.png?v=${version}`)).blob()),
  example: (i) => packed(get(`example?i=${i}`)),
  decode: async (z, y) => (await post(withClass("decode", y), z)).arrayBuffer(),
  sample: (n, y, temperature, seed) =>
    packed(post("sample", JSON.stringify({ n, class: y, temperature, seed }), "application/json")),
  image: (blob, y) => packed(post(withClass("image", y), blob, blob.type || "application/octet-stream")),
  likely: async () => (await get("likely")).json(),
  metrics: async (from) => (await get(`metrics?from=${from}`)).json(),
  tour: async () => (await (await get("tour")).json()).stops,
};
