// Panels 1 and 3 without a server: the formulas of lib/companion/panels.py on the data that it left in the page.
"use strict";

const fixed = (v, n = 2) => (Math.abs(v) < 0.5 * 10 ** -n ? 0 : v).toFixed(n);

function column(data) {
  const bytes = Uint8Array.from(atob(data.inputs), (c) => c.charCodeAt(0)), rows = data.weights.length;
  return {
    controls: [
      ["within", "own part σ_W", 0, 0.5, 0.05, 0.2], ["shared", "shared part e_B", -0.6, 0.6, 0.1, 0.3],
      ["law", "law", ["proportional", "layer-fixed"], "layer-fixed"], ["inputs", "inputs", [16, 64, 256], 64],
      ["sparsity", "share of zeros", 0, 0.875, 0.125, 0.5],
      ["cells", "reference cells", [0, ...Object.keys(data.reference).map(Number)], 0],
    ],
    draw(at) {
      const ê = at.shared + at.within * (data.reference[at.cells] ?? 0), points = [];
      for (let i = 0; i < bytes.length / rows; i++) {
        let ideal = 0, chip = 0, sum = 0;
        for (let k = 0; k < at.inputs; k++) {
          const b = bytes[i * rows + k], x = b >> 4 >= 16 * at.sparsity ? (b & 15) / 15 : 0, w = data.weights[k];
          const e = at.shared + at.within * data.z[k];
          ideal += w * x; sum += x;
          chip += x * (at.law === "proportional" ? w * (1 + e) : w + e);
        }
        if (at.cells) chip = at.law === "proportional" ? chip / Math.max(1 + ê, 0.25) : chip - ê * sum;
        points.push([ideal, chip]);
      }
      const n = points.length, mean = (j) => points.reduce((s, p) => s + p[j], 0) / n, [mx, my] = [mean(0), mean(1)];
      const sxx = points.reduce((s, p) => s + (p[0] - mx) ** 2, 0);
      const slope = sxx ? points.reduce((s, p) => s + (p[0] - mx) * (p[1] - my), 0) / sxx : 0, shift = sxx ? my - slope * mx : 0;
      const rest = points.map((p) => p[1] - slope * p[0] - shift), mr = rest.reduce((s, r) => s + r, 0) / n;
      const scatter = Math.sqrt(rest.reduce((s, r) => s + (r - mr) ** 2, 0) / (n - 1));
      const told = `slope ${fixed(slope)}, shift ${shift < 0 ? "" : "+"}${fixed(shift)}, scatter ${fixed(scatter)}`;
      return [told, (plot) => {
        plot.axes(points, "column on an ideal chip", "column on this chip");
        plot.line([[plot.low, plot.low], [plot.high, plot.high]], "#000");
        for (const p of points) plot.dot(p, at.cells ? "#0072B2" : "#767676", 2.5);
      }];
    },
  };
}

function budget(data) {
  const colours = ["#0072B2", "#B06000", "#CC79A7", "#009E73"];
  return {
    controls: [
      ["cells", "cells n", [1, 4, 16, 64, 256, 1024, 4096], 64], ["within", "own part σ_W", 0.05, 0.5, 0.05, 0.15],
      ["noise", "reading noise", 0, 0.1, 0.01, 0], ["step", "converter step", 0, 0.5, 0.05, 0],
      ["effective", "K_eff", [8, 16, 32, 64, 128, 256, 512, 1024], 64],
    ],
    draw(at) {
      const v = [at.within ** 2 / at.cells, at.noise ** 2, at.step ** 2 / 12], error = Math.sqrt(v[0] + v[1] + v[2]);
      const parts = [["cells' own", at.within ** 2], ...["reading n", "noise", "converter"].map((t, i) => [t, v[i] * at.effective])];
      const lost = Object.entries(data.curves).map(([name, curve]) => {
        const i = curve.findIndex((p) => p[0] >= error);
        if (i < 1) return [name, curve.at(i)[1]];
        const [[a, y], [b, z]] = [curve[i - 1], curve[i]];
        return [name, y + (z - y) * Math.log(error / a) / Math.log(b / a)];
      });
      const said = lost.map(([name, points]) => `${name} ${fixed(points, 1)} points`).join(", ");
      const told = `error of ê ${fixed(error, 3)}, knee at n = ${at.effective}; lost: ${said}`;
      return [told, (plot) => {
        plot.axes([[0, 0], [4, Math.max(...parts.map((p) => p[1])) * 1.1]], "cause", "error variance in units of max|w|²‖x‖²", true);
        parts.forEach(([name, value], i) => plot.bar(i, value, colours[i], name));
      }];
    },
  };
}

function ticks(low, high) {
  const raw = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(raw)), step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const first = Math.ceil(low / step), count = Math.floor(high / step) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

class Plot {
  constructor(svg) { this.svg = svg; this.svg.innerHTML = ""; }
  add(kind, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    this.svg.append(node);
  }
  axes(points, xlabel, ylabel, bars = false) {
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    [this.low, this.high] = [Math.min(...xs), Math.max(...xs)];
    [this.bottom, this.top] = [Math.min(...ys), Math.max(...ys, 1e-9)];
    this.x = (v) => 60 + (430 * (v - this.low)) / (this.high - this.low || 1);
    this.y = (v) => 290 - (270 * (v - this.bottom)) / (this.top - this.bottom || 1);
    this.add("rect", { x: 55, y: 10, width: 440, height: 285, fill: "none", stroke: "#999" });
    this.svg.innerHTML += '<clipPath id="frame"><rect x="55" y="10" width="440" height="285"/></clipPath>';
    for (const y of ticks(this.bottom, this.top)) this.add("text", { x: 50, y: this.y(y) + 4, "text-anchor": "end" }, y);
    if (!bars) for (const x of ticks(this.low, this.high)) this.add("text", { x: this.x(x), y: 310, "text-anchor": "middle" }, x);
    this.add("text", { x: 275, y: 332, "text-anchor": "middle" }, xlabel);
    this.add("text", { x: 14, y: 150, "text-anchor": "middle", transform: "rotate(-90 14 150)" }, ylabel);
  }
  dot([x, y], fill, r) { this.add("circle", { cx: this.x(x), cy: this.y(y), r, fill, "fill-opacity": 0.6 }); }
  line(points, stroke) {
    const inside = points.map(([x, y]) => `${this.x(x)},${this.y(y)}`).join(" ");
    this.add("polyline", { points: inside, stroke, fill: "none", "clip-path": "url(#frame)" });
  }
  bar(i, value, fill, name) {
    this.add("rect", { x: this.x(i + 0.15), y: this.y(value), width: 75, height: 290 - this.y(value), fill });
    this.add("text", { x: this.x(i + 0.5), y: 310, "text-anchor": "middle" }, name);
    this.add("text", { x: this.x(i + 0.5), y: this.y(value) - 4, "text-anchor": "middle" }, Number(value.toPrecision(2)));
  }
}

function start(panel) {
  const made = { column, budget }[panel.dataset.kind];
  if (!made) return;
  const { controls, draw } = made(JSON.parse(panel.querySelector("script").textContent)), at = {};
  const form = document.createElement("div"), status = document.createElement("p");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 510 340");
  svg.setAttribute("role", "img");
  status.setAttribute("role", "status");
  const show = () => {
    const [told, picture] = draw(at);
    const plot = new Plot(svg);
    picture(plot);
    status.textContent = told;
    svg.setAttribute("aria-label", told);
  };
  for (const [name, text, ...range] of controls) {
    const label = document.createElement("label"), listed = Array.isArray(range[0]);
    const input = document.createElement(listed ? "select" : "input"), shown = document.createElement("span");
    label.append(text, input, shown);
    if (listed) for (const value of range[0]) input.append(new Option(value || "none", value));
    else Object.assign(input, { type: "range", min: range[0], max: range[1], step: range[2] });
    input.value = range.at(-1);
    const read = () => {
      at[name] = isNaN(Number(input.value)) ? input.value : Number(input.value);
      shown.textContent = listed ? "" : ` ${at[name]}`;
    };
    read();
    input.addEventListener("input", () => { read(); show(); });
    form.append(label);
  }
  panel.querySelector("p")?.remove();
  panel.append(form, svg, status);
  show();
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".companion-panel").forEach(start));
