// T and P over the tokens of an answer: figure 4 of the AutoDeco paper, live.

import { make, number } from "./tokens.js";

const HEIGHT = 112, RIGHT = 34, TOP = 8, BOTTOM = 20;

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export class Chart {
  /** Fills an element; onPoint(place) is called with the token that is pointed at. */
  constructor(element, tokens, onPoint = () => {}) {
    Object.assign(this, { element, tokens, marked: -1, full: 0, left: 0, width: 0 });
    this.picture = svg("svg", { role: "img", height: HEIGHT });
    this.line = svg("line", { y1: TOP, y2: HEIGHT - BOTTOM });
    const key = (name, text) => make("span", { class: `key ${name}` }, text);
    element.classList.add("chart");
    element.append(this.picture, make("p", {}, key("t", "T, temperature"), key("p", "P, top-p")));
    // which knows the width: to ask the element for it would lay the page out again for each chart
    new ResizeObserver(([{ contentRect }]) => this.draw(contentRect.width)).observe(element);
    const point = (e) => {
      const x = e.clientX - this.picture.getBoundingClientRect().left;
      const place = Math.round(((x - this.left) / this.width) * Math.max(1, this.tokens.length - 1));
      if (this.tokens.length) onPoint(Math.min(Math.max(place, 0), this.tokens.length - 1));
    };
    this.picture.addEventListener("pointermove", point);
    this.picture.addEventListener("click", point);
    this.picture.addEventListener("pointerleave", (e) => e.pointerType === "mouse" && onPoint(-1));
  }

  /** Draw again in the next frame; what has no width yet is drawn once it has. */
  update() {
    if (this.full) this.frame ??= requestAnimationFrame(() => this.draw());
  }

  /** Only this line moves: the rest of a long answer is not drawn again. */
  mark(place) {
    this.marked = place;
    if (this.frame === undefined) this.place();
  }

  place() {
    const known = this.marked >= 0 && this.marked < this.tokens.length, x = known ? this.x(this.marked) : 0;
    this.line.setAttribute("class", known ? "mark" : "");
    for (const name of ["x1", "x2"]) this.line.setAttribute(name, x);
  }

  x(place) {
    return this.left + (this.width * place) / Math.max(1, this.tokens.length - 1);
  }

  y(value, top) {
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.min(value / top, 1));
  }

  draw(full = this.full) {
    const n = this.tokens.length, [t, p] = ["temperature", "top_p"].map((name) => this.tokens.map((token) => token[name]));
    const top = t.reduce((most, value) => (value > most ? Math.ceil(value) : most), 2);
    const left = 9 + 7 * number(top, 1).length, width = Math.max(10, full - left - RIGHT);
    Object.assign(this, { frame: undefined, full, left, width });
    this.picture.setAttribute("width", full);
    const each = n > width ? Math.ceil((2 * n) / width) : 1;  // tokens in a point: more would be a block of ink
    this.picture.setAttribute("aria-label", `${n} tokens: ${summary("T", t)}, ${summary("P", p)}`);
    const parts = [0, 0.5, 1].flatMap((share) => {
      const y = this.y(share, 1);
      const label = (x, anchor, text) => svg("text", { x, y: y + 4, "text-anchor": anchor }, text);
      return [
        svg("line", { class: "grid", x1: left, x2: left + width, y1: y, y2: y }),
        label(left - 6, "end", number(share * top, 1)), label(left + width + 6, "start", number(share, 1)),
      ];
    });
    parts.push(svg("path", { class: "t", d: this.path(t, top, each) }), svg("path", { class: "p", d: this.path(p, 1, each) }));
    if (n) parts.push(svg("text", { x: left, y: HEIGHT - 4 }, "1"));
    if (n > 1) parts.push(svg("text", { x: left + width, y: HEIGHT - 4, "text-anchor": "end" }, `${n.toLocaleString("en")} tokens${each > 1 ? `, means of ${each}` : ""}`));
    this.place();
    this.picture.replaceChildren(...parts, this.line);
  }

  path(values, top, each) {
    let d = "", joined = false;
    for (let begin = 0; begin < values.length; begin += each) {
      const value = mean(values.slice(begin, begin + each)), place = Math.min(begin + (each - 1) / 2, values.length - 1);
      const known = value !== undefined;
      if (known) d += `${joined ? "L" : "M"}${this.x(place).toFixed(1)} ${this.y(value, top).toFixed(1)}`;
      joined = known;
    }
    return values.length === 1 && d ? `${d}h4` : d;
  }
}

const numbers = (values) => values.filter((value) => typeof value === "number");

/** Of the numbers among some values; undefined where there is none. */
export function mean(values) {
  const known = numbers(values);
  return known.length ? known.reduce((a, b) => a + b) / known.length : undefined;
}

export function summary(name, values) {
  const known = numbers(values);
  if (!known.length) return `${name} unknown`;
  const least = known.reduce((a, b) => Math.min(a, b)), most = known.reduce((a, b) => Math.max(a, b));
  return `mean ${name} ${number(mean(known), 2)} (${number(least, 2)} to ${number(most, 2)})`;
}
