// A page of its own: what stands in it as JSON, in the order of its sections.

import { make } from "./tokens.js";
import { Answer, copyButton, options } from "./ui.js";

const PIECE = 20;  // samples that are shown at a time

/** Columns of values as tokens. */
function tokens(columns) {
  const names = Object.keys(columns);
  return columns.text.map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i] ?? undefined])));
}

const SHOW = {
  words: ({ lines }) => {
    const isItem = (line) => line.startsWith("- ");
    const items = lines.filter(isItem).map((line) => make("li", {}, line.slice(2)));
    return [...lines.filter((line) => !isItem(line)).map((line) => make("p", {}, line)), ...(items.length ? [make("ul", {}, ...items)] : [])];
  },

  table: ({ title, head, rows }) => {
    const cells = (tag, values) => make("tr", {}, ...values.map((value) => make(tag, {}, value)));
    const table = make("table", { class: "numbers" }, make("thead", {}, cells("th", head)), make("tbody", {}, ...rows.map((row) => cells("td", row))));
    return [make("h2", {}, title), make("div", { class: "wide", tabindex: "0", role: "group", "aria-label": title }, table)];
  },

  plot: ({ title, src }) => [make("img", { src, alt: title })],

  trace: (trace) => [make("h2", {}, trace.title), ...answer(trace)],

  samples: ({ questions, list }) => {
    const names = ["method", "task", "verdict"], chosen = {};
    const filters = names.map((name) => {
      const kinds = [...new Set(list.map((sample) => sample[name]))];
      const field = make("select", {}, make("option", { value: "" }, "all"), ...kinds.map((kind) => make("option", { value: kind }, kind)));
      field.addEventListener("change", () => {
        chosen[name] = field.value;
        begin();
      });
      return make("label", {}, `${name} `, field);
    });
    const count = make("p", { class: "about", role: "status" }), into = make("div");
    const more = make("button", { type: "button" }, "More");
    let found, at;
    const next = () => {
      into.append(...found.slice(at, at + PIECE).map((sample) => sampleCard({ ...sample, prompt: questions[sample.question] })));
      at += PIECE;
      more.hidden = at >= found.length;
    };
    const begin = () => {
      found = list.filter((sample) => names.every((name) => !chosen[name] || sample[name] === chosen[name]));
      at = 0;
      count.textContent = `${found.length.toLocaleString("en")} of ${list.length.toLocaleString("en")} samples`;
      into.replaceChildren();
      next();
    };
    more.addEventListener("click", next);
    begin();
    return [make("h2", {}, "Samples"), make("div", { class: "filters" }, ...filters), count, into, more];
  },
};

const sampleCard = (sample) =>
  make("article", { class: "sample" }, make("h3", { class: sample.verdict.replace(" ", "-") }, sample.title), ...answer(sample));

/** Prompt, tokens with their chart, and facts; a text alone where there is no more. */
function answer({ prompt, columns, text, about }) {
  const parts = prompt ? [make("p", { class: "prompt", tabindex: "0", role: "group", "aria-label": "Prompt" }, prompt)] : [];
  const shown = new Answer();
  shown.append(columns ? tokens(columns) : text ? [{ text }] : []);
  parts.push(shown.element, make("p", { class: "about" }, [...(columns ? shown.facts : []), ...about].join(" · ")));
  if (shown.text) parts.push(make("p", { class: "buttons" }, copyButton(shown)));
  return parts;
}

const { title, sections } = JSON.parse(document.getElementById("data").textContent);
const bar = make("div", { id: "view-options" }), head = make("header", {}, make("h1", {}, title), bar);
options(bar);

/** What a section shows; where it cannot be shown, the others can. */
function shown(section) {
  try {
    return SHOW[section.kind](section);
  } catch (error) {
    return [make("p", { class: "error" }, `This part cannot be shown: ${error.message}`)];
  }
}

document.body.append(head, make("main", { class: "page" }));
for (const section of sections) document.body.lastChild.append(make("section", {}, ...shown(section)));
