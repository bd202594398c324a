// Tokens as text, each coloured by one of its values; what points at one shows all of them.

export const MODES = {
  temperature: { name: "temperature", short: "T", top: 2 },
  top_p: { name: "top-p", short: "P", top: 1 },
  entropy: { name: "entropy", short: "entropy", top: 4 },
  prob: { name: "probability", short: "probability", top: 1 },
  none: { name: "no colour" },
};

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const number = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "–");
/** A probability: only one that was cut off is 0. */
const share = (value) => (value === 0 ? "0" : value > 0 && value < 0.0005 ? "<0.001" : number(value));
/** By the model alone nothing is cut off, however small. */
const alone = (logprob) => (typeof logprob === "number" ? share(Math.exp(logprob) || Number.MIN_VALUE) : "–");

/** An Escape that is for us: not one that cancels an input method (Safari has 229 for it), or has done something already. */
export const escapes = (e) => e.key === "Escape" && !e.isComposing && e.keyCode !== 229 && !e.defaultPrevented;

/** A token for a reader: what nobody sees, as marks that join emoji or turn the direction of writing, by its number. */
export function quoted(text) {
  if (!text) return "(no text of its own)";
  const seen = JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"');
  return seen.replace(/[\p{Cf}\p{Zl}\p{Zp}\ufe00-\ufe0f]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

/** Text with a mark, which is no text, at each end of a line; there may be more of them than arguments of a call. */
function fill(span, text) {
  const [first, ...lines] = text.split("\n");
  span.replaceChildren(first);
  for (const line of lines) span.append(make("i", { class: "end" }), `\n${line}`);
}

/** Blue below the middle of the scale, orange above. */
export function tint(element, value, top) {
  const known = typeof value === "number" && top;
  const v = known ? Math.min(Math.max(value / top, 0), 1) * 2 - 1 : 0;
  element.classList.toggle("tinted", Boolean(known));
  element.style.setProperty("--hue", v < 0 ? 255 : 55);
  element.style.setProperty("--much", Math.abs(v).toFixed(3));
}

// ---- the values of one token ----

class Tip {
  constructor() {
    this.box = make("div", { class: "tip", id: "tip", role: "status" });
    this.box.hidden = true;
    document.body.append(this.box);
    document.addEventListener("keydown", (e) => {
      if (this.box.hidden || !escapes(e)) return;
      if (this.pinned) e.preventDefault();  // the mouse may only rest where an answer goes by: that is to end then
      this.hide();
    }, true);  // before those that end an answer
    document.addEventListener("click", (e) => e.target.closest(".tok, .chart") || this.hide());
    for (const event of ["scroll", "resize"]) addEventListener(event, () => this.place(), true);
  }

  show(at, token, place) {
    if (!Object.values(token).some((value) => typeof value === "number")) return this.hide();  // a text alone
    this.at?.classList.remove("current");
    this.at = at;
    at.classList.add("current");
    const values = [
      ["T", number(token.temperature)], ["P", number(token.top_p)],
      ["entropy", typeof token.entropy === "number" ? `${number(token.entropy)} nats` : "–"],
      ["nucleus", token.nucleus ?? "–"], ["probability", share(token.prob)],
    ];
    if (typeof token.logprob === "number") values.push(["by the model alone", alone(token.logprob)]);
    const list = make("dl", {}, ...values.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, String(v))]));
    const id = typeof token.id === "number" ? `, id ${token.id}` : "";
    const head = make("p", {}, make("code", {}, quoted(token.text)), make("small", {}, ` token ${place + 1}${id}`));
    this.box.replaceChildren(head, list, ...alternatives(token));
    this.box.hidden = false;
    this.place();
  }

  place() {
    if (this.box.hidden) return;
    const at = this.at.getClientRects()[0], width = this.box.offsetWidth, height = this.box.offsetHeight;
    if (!at || at.bottom < 0 || at.top > innerHeight) return this.hide();
    const above = at.bottom + height + 8 > innerHeight && at.top > height + 8, y = above ? at.top - height - 6 : at.bottom + 6;
    this.box.style.left = `${Math.max(4, Math.min(at.left, document.documentElement.clientWidth - width - 4))}px`;
    this.box.style.top = `${Math.max(4, Math.min(y, innerHeight - height - 4))}px`;
  }

  hide() {
    this.pinned = false;
    this.at?.classList.remove("current");
    this.box.hidden = true;
  }
}

function alternatives(token) {
  if (!token.alternatives?.length) return [];
  const rows = token.alternatives.map((other) => {
    const bar = make("span", { class: "bar" });
    bar.style.setProperty("--share", other.prob ?? 0);
    const cells = [make("code", {}, quoted(other.text)), alone(other.logprob), share(other.prob)];
    const row = make("tr", other.id !== undefined && other.id === token.id ? { class: "drawn" } : {}, ...cells.map((c) => make("td", {}, c)));
    row.lastChild.append(bar);
    return row;
  });
  const heads = ["instead", "model", "drawn with"].map((text) => make("th", { scope: "col" }, text));
  return [make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))];
}

let theTip;
export const tip = () => (theTip ??= new Tip());

// ---- the text ----

const OPEN = "<think>", CLOSE = "</think>";

export class TokenView {
  /** Fills an element; onPoint(place) is called with the token that is pointed at, or with -1. */
  constructor(element, mode, onPoint = () => {}) {
    Object.assign(this, { element, mode, onPoint, tokens: [], spans: [], at: -1, into: element });
    this.begin(null);
    element.view = this;
    element.classList.add("tokens");
    for (const [name, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", "Answer; arrow keys go from token to token"]])
      element.setAttribute(name, value);
    element.addEventListener("pointerover", (e) => e.pointerType === "mouse" && !tip().pinned && this.point(e.target));
    element.addEventListener("pointerleave", () => tip().pinned || this.leave());
    element.addEventListener("click", (e) => {
      if (e.target.closest("summary")) return;
      tip().pinned = this.point(e.target);
    });
    element.addEventListener("keydown", (e) => this.key(e));
    element.addEventListener("blur", () => this.leave());
  }

  append(tokens) {
    for (const token of tokens) this.put(token, this.tokens.push(token) - 1, token.text ?? "");
  }

  get text() {
    return this.tokens.map((token) => token.text ?? "").join("");
  }

  recolour(mode) {
    this.mode = mode;
    for (const span of this.element.querySelectorAll(".tok")) this.colour(span);
  }

  colour(span) {
    tint(span, this.tokens[span.place][this.mode], MODES[this.mode].top);
  }

  /** Parts between <think> and </think> stand in a fold of their own; a mark may be split over tokens. */
  put(token, place, text) {
    for (let at = 0; ;) {  // what of the text is left
      const before = this.length, seen = this.tail + text.slice(at, at + CLOSE.length), start = before - this.tail.length;
      const find = (mark) => {
        const split = seen.indexOf(mark), found = split < 0 ? text.indexOf(mark, at) : -1;
        return split >= 0 ? start + split : found < 0 ? -1 : before + found - at;
      };
      let ends = this.fold !== null, found = find(ends ? CLOSE : OPEN);
      if (found < 0 && !this.folded) {  // a template may have opened it in the prompt
        found = find(CLOSE);
        ends = found >= 0;
      }
      if (found < 0) {
        this.span(token, place, text.slice(at), before);
        this.length += text.length - at;
        this.tail = (this.tail + text.slice(at)).slice(-CLOSE.length);  // enough for a mark that is split
        return;
      }
      const end = found + (ends ? CLOSE : OPEN).length - before;
      if (!ends && found > before) this.span(token, place, text.slice(at, at + found - before), before);
      if (!this.fold) this.open(ends ? 0 : found);
      const inside = ends ? 0 : Math.max(0, found - before);
      this.span(token, place, text.slice(at + inside, at + end), before + inside);
      if (ends) this.into = this.element;
      this.begin(ends ? null : this.fold);
      at += end;
      if (at >= text.length) return;
    }
  }

  begin(fold) {
    Object.assign(this, { fold, tail: "", length: 0, part: [] });
  }

  /** Open a fold for what stands from a place of the text on. */
  open(from) {
    const inside = this.part.filter((span) => span.from + span.textContent.length > from);
    const [first] = inside;
    if (first && first.from < from) {
      const text = first.textContent, cut = from - first.from;
      fill(first, text.slice(0, cut));
      this.span(this.tokens[first.place], first.place, text.slice(cut), from);
      inside[0] = this.part.pop();
    }
    this.fold = make("details", { class: "think", open: "" }, make("summary", {}, "Thinking"));
    this.folded = true;
    this.into.append(this.fold);
    this.into = this.fold;
    this.fold.append(...inside);
    this.part = inside;
  }

  span(token, place, text, from) {
    const span = make("span", { class: /[\u202a-\u202e\u2066-\u2069]/.test(text) ? "tok turning" : "tok" });
    fill(span, text);
    Object.assign(span, { place, from });
    if (text.includes("\n") && !text.trim()) span.classList.add("blank");
    this.spans[place] ??= span;
    this.part.push(span);
    this.colour(span);
    this.into.append(span);
  }

  // ---- pointing ----

  point(target) {
    const span = target.closest?.(".tok");
    return Boolean(span) && this.select(span.place, span);
  }

  /** Whether there is more of it than a text. */
  select(place, span = this.spans[place]) {
    this.at = place;
    tip().show(span, this.tokens[place], place);
    this.onPoint(place);
    return !tip().box.hidden;
  }

  leave() {
    tip().hide();
    this.onPoint(-1);
  }

  key(e) {
    const last = this.tokens.length - 1;
    const to = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: last }[e.key];
    if (to === undefined || last < 0 || e.target !== this.element || e.altKey || e.ctrlKey || e.metaKey || e.shiftKey) return;
    e.preventDefault();
    const place = Math.min(Math.max(to, 0), last), fold = this.spans[place].closest("details");
    if (fold) fold.open = true;
    this.spans[place].scrollIntoView({ block: "nearest" });
    tip().pinned = this.select(place);
  }
}
