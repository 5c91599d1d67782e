/** Reads /metrics: Prometheus's text format. */

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n", "\\": "\\", '"': '"' };

/** Samples as {name, labels, value}. */
export function parse(text) {
  return text.split("\n").flatMap((line) => {
    const found = SAMPLE.exec(line);
    if (!found) return [];
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, sign) => ESCAPED[sign] ?? sign);
    }
    return [{ name: found[1], labels, value: Number(found[3]) }];
  });
}

/** The sum of the samples of a name that have these labels. */
export function total(samples, name, labels = {}) {
  return samples
    .filter((one) => one.name === name && Object.entries(labels).every(([label, value]) => one.labels[label] === value))
    .reduce((sum, one) => sum + one.value, 0);
}

/** The values that a label has, in samples of a name. */
export function valuesOf(samples, name, label) {
  return [...new Set(samples.filter((one) => one.name === name).map((one) => one.labels[label]))].sort();
}
