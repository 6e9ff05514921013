// A curve through points {x, y, low, high}: one line, its interval, and names for the axes.

import { h } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";
const WIDE = 560, HIGH = 220, LEFT = 52, BELOW = 34;

function draw(tag, attributes, text) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function curve(points, { label, x, y, showX, showY }) {
  const most = Math.max(...points.map((p) => p.x)), least = Math.min(...points.map((p) => p.x));
  const top = Math.max(...points.map((p) => p.high)), bottom = Math.min(...points.map((p) => p.low));
  const at = (p) => LEFT + ((p - least) / (most - least || 1)) * (WIDE - LEFT - 12);
  const up = (p) => HIGH - BELOW - ((p - bottom) / (top - bottom || 1)) * (HIGH - BELOW - 12);
  const path = (chosen, value) => chosen.map((p, i) => `${i ? "L" : "M"}${at(p.x).toFixed(1)} ${up(value(p)).toFixed(1)}`).join("");
  const picture = draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label, class: "curve" });
  const back = [...points].reverse();
  picture.append(
    draw("path", { d: `${path(points, (p) => p.high)}${path(back, (p) => p.low).replace("M", "L")}Z`, class: "band" }),
    draw("path", { d: path(points, (p) => p.y), class: "line" }),
    draw("line", { x1: LEFT, y1: HIGH - BELOW, x2: WIDE - 12, y2: HIGH - BELOW, class: "axis" }),
    draw("line", { x1: LEFT, y1: 8, x2: LEFT, y2: HIGH - BELOW, class: "axis" }),
    draw("text", { x: LEFT, y: HIGH - 18 }, showX(least)), draw("text", { x: WIDE - 12, y: HIGH - 18, "text-anchor": "end" }, showX(most)),
    draw("text", { x: (WIDE + LEFT) / 2, y: HIGH - 4, "text-anchor": "middle" }, x),
    draw("text", { x: LEFT - 4, y: 16, "text-anchor": "end" }, showY(top)), draw("text", { x: LEFT - 4, y: HIGH - BELOW, "text-anchor": "end" }, showY(bottom)),
  );
  return h("figure", {}, picture, h("figcaption", { class: "soft" }, y));
}
