"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const body = document.querySelector("#sites tbody");
const digits = (value) => Number(value.toPrecision(4)).toString();

function sort(header) {
  const column = header.cellIndex;
  const up = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up === 1 ? "ascending" : "descending");
  const figure = header.classList.contains("n");
  const value = (row) => {
    const text = row.cells[column].dataset.v;
    if (!figure) return text;
    return text === "" ? NaN : text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
  };
  const order = (a, b) => (figure ? (a === b ? 0 : a - b) : a.localeCompare(b, undefined, { numeric: true }));
  const rows = [...body.rows].map((row) => [value(row), row]);
  const empty = (v) => (figure ? Number.isNaN(v) : v === "");
  rows.sort(([a], [b]) => empty(a) - empty(b) || (empty(a) ? 0 : up * order(a, b)));
  body.append(...rows.map(([, row]) => row));
}

function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const all = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => all.includes(word));
    shown += !row.hidden;
  }
  byId("count").textContent = `${shown} of ${body.rows.length}`;
}

function element(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Series of counts over the same bins; marks are values that get a line.
function histogram(place, label, low, high, series, marks) {
  const [width, height, left, bottom] = [560, 220, 8, 24];
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const from = Math.min(low, ...marks), to = Math.max(high, ...marks);
  const x = (value) => left + ((width - 2 * left) * (value - from)) / (to - from);
  const most = Math.max(1, ...series.flatMap(([counts]) => counts));
  for (const [counts, color, outlined] of series) {
    const step = (high - low) / counts.length;
    const y = (count) => (height - bottom) * (1 - (0.94 * count) / most);
    if (outlined) {
      let path = `M${x(low)} ${y(0)}`;
      counts.forEach((count, i) => { path += `L${x(low + i * step)} ${y(count)}L${x(low + (i + 1) * step)} ${y(count)}`; });
      svg.append(element("path", { d: `${path}L${x(high)} ${y(0)}`, fill: "none", stroke: color, "stroke-width": 1.5 }));
      continue;
    }
    counts.forEach((count, i) => {
      const bar = element("rect", { x: x(low + i * step) + 0.3, width: Math.max(x(low + (i + 1) * step) - x(low + i * step) - 0.6, 0.4),
        y: y(count), height: height - bottom - y(count), fill: color });
      bar.append(element("title", {}, `${digits(low + i * step)} to ${digits(low + (i + 1) * step)}: ${count}`));
      svg.append(bar);
    });
  }
  for (const mark of marks) svg.append(element("line", { x1: x(mark), x2: x(mark), y1: 0, y2: height - bottom, stroke: "var(--two)", "stroke-width": 1.5 }));
  svg.append(element("line", { x1: left, x2: width - left, y1: height - bottom, y2: height - bottom, stroke: "var(--line)" }));
  for (const [value, anchor] of [[from, "start"], [(from + to) / 2, "middle"], [to, "end"]])
    svg.append(element("text", { x: x(value), y: height - 7, "text-anchor": anchor, "font-size": 12, class: "axis" }, digits(value)));
  place.replaceChildren(svg);
}

function choose(name) {
  const drawn = data.proof && Object.hasOwn(data.proof.distributions, name) ? data.proof.distributions[name] : undefined;
  for (const row of body.rows) row.classList.toggle("chosen", row.cells[0].dataset.v === name);
  if (!drawn || drawn.low === undefined) return;
  byId("weight").textContent = name;
  byId("every").textContent = drawn.every > 1 ? `every ${drawn.every}th value` : "every value";
  histogram(byId("values"), "values of the weight", drawn.low, drawn.high,
    [[drawn.decoded, "var(--one)", false], [drawn.float, "currentColor", true]], []);
  byId("codes").parentNode.hidden = drawn.codes.length === 0;
  if (drawn.codes.length) {
    const used = drawn.codes.filter((count) => count > 0).length;
    byId("used").textContent = `${used} of ${drawn.codes.length} codes are used`;
    histogram(byId("codes"), "usage of codes", 0, drawn.codes.length, [[drawn.codes, "var(--three)", false]], []);
  }
}

function observe(name) {
  const values = data.observed[name], codes = data.activations.tensors[name];
  histogram(byId("seen"), "values that calibration saw", values.low, values.high, [[values.counts, "var(--one)", false]], [codes.low, codes.high]);
  byId("range").textContent = `codes from ${digits(codes.low)} to ${digits(codes.high)}, values seen from ${digits(values.low)} to ${digits(values.high)}`;
}

if (body) {
  for (const header of document.querySelectorAll("#sites th")) {
    header.addEventListener("click", () => sort(header));
    header.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(header); });
  }
  byId("search").addEventListener("input", (event) => search(event.target.value));
  search("");
  const buttons = [...body.querySelectorAll("button")];
  for (const button of buttons) button.addEventListener("click", () => choose(button.textContent));
  if (buttons.length) choose(buttons[0].textContent);
}
const picker = byId("tensor");
if (picker) {
  picker.addEventListener("change", () => observe(picker.value));
  observe(picker.value);
}
window.addEventListener("beforeprint", () => { for (const more of document.querySelectorAll("details")) more.open = true; });
