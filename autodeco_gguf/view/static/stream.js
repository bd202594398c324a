// A server's answer as it comes: server-sent events in pieces that may end anywhere.

/** Bytes in, the data of whole events out, after the HTML standard: any line end, comments and other fields passed over. */
export class Events {
  decoder = new TextDecoder();
  rest = "";
  data = [];

  push(bytes) {
    const lines = (this.rest + this.decoder.decode(bytes, { stream: true })).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();  // with a \r at its end, of which \n may be the next byte
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.data.length) events.push(this.data.join("\n"));
        this.data = [];
      } else if (line === "data" || line.startsWith("data:")) {
        this.data.push(line.slice(5).replace(/^ /, ""));
      }
    }
    return events;
  }
}

export const bearer = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** Ask, and give {tokens, source, finish} for each chunk; an Error says in words what went wrong. */
async function* answer(body, { key, signal }) {
  if (!/^[\x20-\xff]*$/.test(key)) throw new Error("The API key has characters that cannot be sent.");
  const headers = { "Content-Type": "application/json", ...bearer(key) };
  const request = { ...body, stream: true, autodeco: { tokens: true, top: 5 } };
  const response = await fetch("v1/chat/completions", { method: "POST", headers, signal, body: JSON.stringify(request) }).catch((e) => {
    throw e.name === "AbortError" ? e : new Error("The server cannot be reached. Is it still running?");
  });
  if (!response.ok) throw new Error(await refusal(response));
  const reader = response.body.getReader(), events = new Events(), early = { text: "" };
  try {
    for (let over = false; ;) {
      const { done, value } = await reader.read().catch((e) => {
        throw e.name === "AbortError" ? e : new Error("The connection was lost before the answer was complete.");
      });
      if (done && !over) throw new Error("The stream ended before the answer was complete.");
      if (done) return;
      for (const data of events.push(value)) {
        if (data === "[DONE]") over = true;
        else if (!over) yield chunk(data, early);
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // or the server goes on for nobody; one that failed says so again
  }
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  let said;
  try {
    said = JSON.parse(text).error;
    said = said?.message ?? said;
  } catch { /* no JSON: the status has to do */ }
  if (response.status === 401) return "The server wants an API key: see Settings.";
  if (response.status === 503) return `The server is busy: ${said ?? "try again in a moment"}`;
  return typeof said === "string" ? said : `The server answered with status ${response.status}.`;
}

/** A chunk. Text comes before its token where that also begins a character: `early.text` keeps it until then. */
function chunk(data, early) {
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    throw new Error("The server sent something that is no JSON.");
  }
  if (value.error) throw new Error(value.error.message ?? String(value.error));
  const choice = value.choices?.[0], traced = choice?.autodeco, finish = choice?.finish_reason;
  const tokens = traced?.tokens ?? [], known = tokens.map((token) => token.text).join("");
  const text = early.text + (choice?.delta?.content ?? "");
  const left = text.startsWith(known) ? text.slice(known.length) : "";
  // text without a token: from a server that sends none, or what was left of half a character
  const rest = finish || !traced ? left : "";
  early.text = rest ? "" : left;
  return { tokens: rest ? [...tokens, { text: rest }] : tokens, source: traced?.source, finish };
}

/** The seed that a field has, as the server reduces it: a number here has 53 bits; a new one where it is empty. */
export const seedOf = (text) => (text ? Number(BigInt(text) % 4294967295n) : crypto.getRandomValues(new Uint32Array(1))[0] % 2 ** 31);

/** Ask, show the answer as it comes, with a step() in each frame; gives the notes, or the error, of its end. */
export async function stream(body, server, shown, step) {
  const begin = performance.now();
  let source, finish, frame;
  try {
    for await (const chunk of answer(body, server)) {
      source = chunk.source ?? source;
      finish = chunk.finish ?? finish;
      shown.append(chunk.tokens);
      frame ??= requestAnimationFrame(() => {
        frame = undefined;
        step();
      });
    }
  } catch (e) {
    return e.name === "AbortError" ? { notes: ["stopped"], stopped: true } : { notes: [], error: e.message };
  } finally {
    cancelAnimationFrame(frame);
    step();
  }
  const speed = shown.view.tokens.length / ((performance.now() - begin) / 1000);
  const notes = speed ? [`${speed.toFixed(0)} tokens/s`] : [];
  if (source) notes.push(typeof source === "string" ? `by ${source}` : `T by ${source.temperature}, P by ${source.top_p}`);
  if (finish === "length") notes.push("cut by its length");
  return { notes };
}
