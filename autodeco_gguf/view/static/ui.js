// What all pages have: colours of tokens and of the page, copying, an answer with its chart.

import { MODES, TokenView, make, number } from "./tokens.js";
import { Chart, mean } from "./chart.js";

let mode = remembered("mode", Object.keys(MODES)) ?? "temperature";

/** A choice of an earlier visit; none where the browser keeps nothing, as for files. */
function remembered(name, choices, value) {
  try {
    if (value) localStorage.setItem(`autodeco-${name}`, value);
    const found = localStorage.getItem(`autodeco-${name}`);
    return choices.includes(found) ? found : undefined;
  } catch {
    return value;
  }
}

/** Fill an element with the choice of colour, its scale, and the switch between dark and light. */
export function options(element) {
  const choice = make("select", { id: "mode" }, ...Object.entries(MODES).map(([key, { name }]) => make("option", { value: key }, name)));
  const scale = make("span", { class: "scale", "aria-hidden": "true" });
  const show = () => {
    const { top } = MODES[mode];
    scale.replaceChildren(...(top ? ["0", make("i"), `${top}${top === 4 ? "+" : ""}`] : []));
  };
  choice.value = mode;
  choice.addEventListener("change", () => {
    mode = choice.value;
    remembered("mode", Object.keys(MODES), mode);
    for (const { view } of document.querySelectorAll(".tokens")) view.recolour(mode);
    show();
  });
  show();
  const theme = make("button", { type: "button", class: "quiet", "aria-label": "Dark or light" }, "◐");
  const themes = ["dark", "light"], root = document.documentElement;
  root.dataset.theme = remembered("theme", themes) ?? "";
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remembered("theme", themes, root.dataset.theme);
  });
  element.append(make("label", {}, "Colour ", choice), scale, theme);
}

/** Tokens and their chart, each of which marks what is pointed at in the other. */
export class Answer {
  constructor() {
    const text = make("div"), picture = make("div");
    this.view = new TokenView(text, mode, (place) => this.chart.mark(place));
    this.chart = new Chart(picture, this.view.tokens, (place) => {
      place < 0 ? this.view.leave() : this.view.select(place);
    });
    this.element = make("div", { class: "answer" }, text, picture);
    picture.hidden = true;
  }

  append(tokens) {
    this.view.append(tokens);
    if (tokens.some((token) => typeof token.temperature === "number")) this.chart.element.hidden = false;
    this.chart.update();
  }

  get text() {
    return this.view.text;
  }

  mean(name) {
    const found = mean(this.view.tokens.map((token) => token[name]));
    return found === undefined ? [] : [`mean ${MODES[name].short} ${number(found, 2)}`];
  }

  /** "57 tokens · mean T 0.61 · mean P 0.80" */
  get facts() {
    const n = this.view.tokens.length;
    return [`${n.toLocaleString("en")} token${n === 1 ? "" : "s"}`, ...this.mean("temperature"), ...this.mean("top_p")];
  }
}

/** Show one button in the place of another, which may have had the focus. */
export function swap(before, after) {
  const focused = document.activeElement === before;
  after.hidden = false;
  if (focused) after.focus();
  before.hidden = true;
}

/** A button that copies an answer, and says whether it did; off localhost over http there is no clipboard. */
export function copyButton({ text }) {
  const button = make("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(spoken(text) || text)) ? "Copied" : "Select the text and press Ctrl-C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { /* absent, or not allowed: the old way */ }
  const area = make("textarea", { class: "hidden", readonly: "" }), before = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}

/** An answer's text without the thought at its beginning; one that the template began ends on a line of its own. */
export const spoken = (text) => text.replace(/^(\s*<think>[^]*?<\/think>|(((?!<think>)[^])*?\n)?<\/think>[^\S\n]*\n)\s*/, "");
