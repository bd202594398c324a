// The page at /: a chat, and the same prompt asked in several ways.

import { bearer, seedOf, stream } from "./stream.js";
import { escapes, make } from "./tokens.js";
import { Answer, copyButton, options, swap } from "./ui.js";
import { compare } from "./compare.js";

const by = (id) => document.getElementById(id);
const EXAMPLES = ["Tell a story about Mia with 47 and 38.", "Why is the sky blue?", "Write a haiku about rain.", "What is 12 times 12?"];
const log = by("log"), prompt = by("prompt");
const turns = [];  // {role, content, element}
let running;

// ---- settings ----

const value = (id) => by(id).value.trim();

/** What the fields of the settings say of a request. */
function settings() {
  const heads = value("heads"), request = heads === "on" ? {} : { heads };
  if (!["on", "temperature"].includes(heads)) request.temperature = Number(value("temperature"));
  if (!["on", "top_p"].includes(heads)) request.top_p = Number(value("top-p"));
  if (value("max-tokens")) request.max_tokens = Number(value("max-tokens"));
  return request;
}

function decide() {
  by("temperature").disabled = ["on", "temperature"].includes(value("heads"));
  by("top-p").disabled = ["on", "top_p"].includes(value("heads"));
}
by("heads").addEventListener("change", decide);
addEventListener("pageshow", decide);  // not before: one that comes back restores fields, without a change, if they are enabled

// ---- scrolling: at the newest line, unless the reader has gone elsewhere ----

let follows = true, last = 0, finger;
const low = matchMedia("(max-height: 26rem)");  // where the whole page scrolls, as style.css has it
const box = () => (low.matches ? document.scrollingElement : log);
const below = () => box().scrollHeight - box().scrollTop - box().clientHeight;

function follow(always = false) {
  if (always) follows = true;
  if (follows && !by("chat").hidden) box().scrollTop = last = box().scrollHeight - box().clientHeight;
  by("newest").hidden = follows;
}
const up = () => (follows &&= box().scrollTop <= 0);  // the reader's will: in a fast answer scrollTop does not tell of it
log.addEventListener("wheel", (e) => e.deltaY < 0 && up(), { passive: true });
log.addEventListener("keydown", (e) => ["PageUp", "Home", "ArrowUp"].includes(e.key) && up());
log.addEventListener("touchstart", (e) => (finger = e.touches[0].clientY), { passive: true });
log.addEventListener("touchmove", (e) => e.touches[0].clientY > finger && up(), { passive: true });
for (const scrolled of [log, document]) scrolled.addEventListener("scroll", () => {
  if (by("chat").hidden) return;
  const { scrollTop } = box();
  if (scrollTop < last && below() >= 2) follows = false;
  if (scrollTop > last && below() < 2) follows = true;
  last = scrollTop;
  by("newest").hidden = follows || below() < 2;
});
by("newest").addEventListener("click", () => follow(true));

// ---- turns ----

function add(role, content, ...children) {
  const name = { user: "You", assistant: "Model" }[role];
  const element = make("article", { class: `turn ${role}`, "aria-label": name }, ...children);
  by("turns").append(element);
  by("empty").hidden = true;
  by("clear").hidden = false;
  turns.push({ role, content, element });
  return turns.at(-1);
}

/** Not a question that was never answered, nor the answer that did not come. */
const counts = (turn, i) => !turn.failed && !turns[i + 1]?.failed;

async function ask(text) {
  add("user", text, make("p", { class: "said" }, text));
  await reply();
}

/** Answer the last question; an earlier answer to it is out of sight meanwhile. */
async function reply(earlier) {
  const seed = seedOf(value("seed"));
  const system = value("system") ? [{ role: "system", content: value("system") }] : [];
  const messages = [...system, ...turns.filter(counts).map(({ role, content }) => ({ role, content }))];
  const shown = new Answer(), about = make("p", { class: "about" });
  const turn = add("assistant", "", shown.element, about);
  turn.element.setAttribute("aria-busy", "true");
  document.querySelectorAll(".turn:not([hidden]) .again").forEach((button) => button.remove());
  swap(by("send"), by("stop"));
  by("clear").disabled = true;
  follow(true);
  running = new AbortController();
  const server = { key: value("key"), signal: running.signal };
  const ended = await stream({ messages, seed, ...settings() }, server, shown, () => {
    turn.content = shown.text;
    about.textContent = shown.facts.join(" · ");
    follow();
  });
  turn.element.removeAttribute("aria-busy");
  finish(turn, shown, about, seed, ended);
  if (earlier) settle(earlier, turn, ended.error);
  swap(by("stop"), by("send"));
  by("clear").disabled = false;
  follow();
}

function finish(turn, shown, about, seed, { notes, error, stopped }) {
  const repeat = make("button", { type: "button", class: "quiet", title: "Use this seed again" }, `seed ${seed}`);
  repeat.addEventListener("click", () => {
    by("seed").value = seed;
    by("settings").open = true;
  });
  const again = make("button", { type: "button", class: "quiet again" }, "Regenerate");
  again.addEventListener("click", () => {
    if (!by("composer").reportValidity()) return;
    turn.element.hidden = true;
    log.focus({ preventScroll: true });  // the button that had it is gone
    reply(turns.pop());
  });
  turn.failed = Boolean(error || stopped) && !shown.text;
  shown.element.hidden = turn.failed;
  about.textContent = [...(turn.failed ? [] : shown.facts), ...notes].join(" · ");
  about.after(make("p", { class: "buttons" }, repeat, ...(shown.text ? [copyButton(shown)] : []), again));
  if (error) about.before(make("p", { class: "error", role: "alert" }, error));
}

/** Where the new answer did not come, or broke off, the earlier one comes back, with what went wrong below it. */
function settle(earlier, turn, error) {
  if (!(turn.failed || error) || earlier.failed) return earlier.element.remove();
  earlier.element.querySelector(".buttons + .error")?.remove();
  earlier.element.append(...turn.element.querySelectorAll(".error"));
  earlier.element.hidden = false;
  turn.element.remove();
  turns.splice(-1, 1, earlier);
}

// ---- the composer ----

by("composer").addEventListener("submit", (e) => {
  e.preventDefault();
  const text = prompt.value.trim();
  if (!text || by("send").hidden) return;
  prompt.value = "";
  grow();
  ask(text);
});
prompt.addEventListener("keydown", (e) => {
  // an Enter that accepts what an input method proposes is not for us; Safari has 229 for it
  if (e.key !== "Enter" || e.shiftKey || e.isComposing || e.keyCode === 229) return;
  e.preventDefault();
  by("composer").requestSubmit();
});
function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${Math.min(prompt.scrollHeight + 2, innerHeight / 3)}px`;
}
prompt.addEventListener("input", grow);
// what will not do is not hidden, or nobody would know why nothing is sent
by("composer").addEventListener("invalid", () => (by("settings").open = true), true);
by("stop").addEventListener("click", () => running?.abort());
by("clear").addEventListener("click", () => {
  turns.length = 0;
  by("turns").replaceChildren();
  by("empty").hidden = false;
  by("clear").hidden = true;
  prompt.focus();
});
document.addEventListener("keydown", (e) => escapes(e) && !by("chat").hidden && running?.abort());
for (const text of EXAMPLES) {
  const button = make("button", { type: "button" }, text);
  button.addEventListener("click", () => !by("send").hidden && by("composer").reportValidity() && ask(text));
  by("examples").append(button);
}

// ---- the page ----

for (const name of ["chat", "compare"])
  by(`show-${name}`).addEventListener("click", () => {
    for (const other of ["chat", "compare"]) {
      by(other).hidden = other !== name;
      by(`show-${other}`).setAttribute("aria-pressed", other === name);
    }
    follow();
  });
options(by("view-options"));
compare(by);
/** What the server is, once it tells. */
async function introduce() {
  const response = await fetch("props", { headers: bearer(value("key")) }).catch(() => null);
  const props = response?.ok ? await response.json() : {};
  by("model").textContent = props.model ?? "";
  const notes = [];
  if (response?.status === 401) notes.push("The server wants an API key: give it in the settings.");
  if (props.heads?.length === 0) notes.push("This model has no heads: nothing is predicted, T and P are yours, its file's, or 1.");
  by("note").textContent = notes.join(" ");
  by("note").hidden = !notes.length;
}
by("key").addEventListener("change", introduce);
introduce();
prompt.focus({ preventScroll: true });
