// selection.csv: the examples inside the lasso. A text that a spreadsheet would take for a formula is quoted with '.

import { el } from "./draw.js";

export function csv(world, chosen) {
  const { model, geometry } = world;
  const dims = Array.from({ length: geometry.dims }, (_, d) => `mean_${d}`);
  const rows = chosen.map((i) => [
    model.row ? model.row[i] : i, field(model.items?.[i] ?? ""), model.label[i],
    field(model.label[i] >= 0 ? model.names[model.label[i]] : ""), ...geometry.of(i),
  ]);
  return [["row", "file", "label", "class", ...dims], ...rows].map((row) => row.join(",")).join("\r\n").concat("\r\n");
}

function field(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function saveSelection(world, chosen) {
  const url = URL.createObjectURL(new Blob([csv(world, chosen)], { type: "text/csv" }));
  const link = el("a", { href: url, download: "selection.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
