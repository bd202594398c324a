// One prompt, asked in several ways with the same seed: commands in the prompt, or heads against numbers.

import { escapes, make } from "./tokens.js";
import { Answer, copyButton, swap } from "./ui.js";
import { seedOf, stream } from "./stream.js";

const LOW = "Please be as predictable as possible.", HIGH = "Please be as creative as possible.";

/** Set the view up; by(id) finds its elements. */
export function compare(by) {
  const input = (value, attributes) => Object.assign(make("input", attributes), { value });
  const fixed = (value, top) => input(value, { type: "number", min: 0, max: top, step: "any", required: "" });
  const kind = make("select", {}, make("option", { value: "commands" }, "commands"), make("option", { value: "numbers" }, "fixed numbers"));
  const low = input(LOW, {}), high = input(HIGH, {}), seed = input("", { inputmode: "numeric", pattern: "[0-9]*", placeholder: "a new one each time" });
  const longest = input("256", { type: "number", min: 1 });
  const pairs = [[fixed("0.7", 1e6), fixed("0.9", 1)], [fixed("1", 1e6), fixed("1", 1)]];
  const label = (text, field, of = "") => make("label", { "data-of": of }, text, field);
  by("compare-fields").append(
    label("Compare with", kind), label("For little diversity", low, "commands"), label("For much", high, "commands"),
    ...pairs.flatMap(([t, p], i) => [label(`T of pair ${i + 1}`, t, "numbers"), label(`P of pair ${i + 1}`, p, "numbers")]),
    label("Seed", seed), label("Longest answer, tokens", longest),
  );
  const show = () => {
    for (const field of by("compare-fields").children)
      if (field.dataset.of) field.hidden = field.lastChild.disabled = field.dataset.of !== kind.value;
  };
  kind.addEventListener("change", show);
  show();

  /** What is asked: [heading, end of the prompt, more of the request]. */
  function ways() {
    if (kind.value === "commands")
      return [["plain", "", {}], ["low diversity", ` ${low.value}`, {}], ["high diversity", ` ${high.value}`, {}]];
    const numbers = pairs.map(([t, p]) => [
      `T = ${t.value}, P = ${p.value}`, "", { heads: "off", temperature: Number(t.value), top_p: Number(p.value) },
    ]);
    return [["heads", "", {}], ...numbers];
  }

  let running = null;
  by("compare-stop").addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (e) => escapes(e) && !by("compare").hidden && running?.abort());
  by("compare-form").addEventListener("submit", async (e) => {
    e.preventDefault();
    const prompt = by("compare-prompt").value.trim();
    if (!prompt || running) return;
    running = new AbortController();
    const controller = running, drawn = seedOf(seed.value);
    by("columns").replaceChildren();
    swap(by("compare-run"), by("compare-stop"));
    await Promise.all(ways().map(([heading, end, more]) => {
      const request = { messages: [{ role: "user", content: prompt + end }], seed: drawn, max_tokens: Number(longest.value) || undefined, ...more };
      return column(heading, end, request, controller);
    }));
    running = null;
    swap(by("compare-stop"), by("compare-run"));
  });

  async function column(heading, end, request, controller) {
    const shown = new Answer(), about = make("p", { class: "about" });
    const element = make("article", { class: "turn assistant", "aria-label": heading }, make("h2", {}, heading));
    element.append(make("p", { class: "command" }, end ? `…${end}` : "the prompt as it is"));
    element.append(shown.element, about);
    by("columns").append(element);
    const server = { key: by("key").value, signal: controller.signal };
    const { notes, error } = await stream(request, server, shown, () => (about.textContent = shown.facts.join(" · ")));
    about.textContent = [...shown.facts, `seed ${request.seed}`, ...notes].join(" · ");
    if (error) about.before(make("p", { class: "error", role: "alert" }, error));
    if (shown.text) about.after(make("p", { class: "buttons" }, copyButton(shown)));
  }
}
