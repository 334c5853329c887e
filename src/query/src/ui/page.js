"use strict";
// The page asks for the parts that have changed, and puts them into their places. The server makes the HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const chosen = () => new URLSearchParams(location.search).get("pipeline") || "";
  const digests = new Map();
  let shown = "";

  // Replaces a part. What a person has opened or scrolled there stays so.
  function put(name, html) {
    const place = byId("part-" + name);
    if (!place) return;
    const open = [...place.querySelectorAll("details[open]")].map((it) => it.id);
    const scrolled = [...place.querySelectorAll(".scroll")].map((it) => [it.scrollLeft, it.scrollTop]);
    place.innerHTML = html;
    for (const id of open) if (id && byId(id)) byId(id).open = true;
    place.querySelectorAll(".scroll").forEach((it, at) => {
      if (scrolled[at]) [it.scrollLeft, it.scrollTop] = scrolled[at];
    });
  }

  function choices(pipeline, pipelines) {
    const select = byId("pipeline");
    byId("choice").hidden = pipelines.length === 0;
    const names = pipelines.includes(pipeline) || !pipeline ? pipelines : [pipeline, ...pipelines];
    if (names.join("\n") !== [...select.options].map((it) => it.value).join("\n")) {
      select.replaceChildren(...names.map((name) => new Option(name, name)));
    }
    select.value = pipeline;
    document.title = pipeline ? pipeline + " – raisin" : "raisin";
  }

  async function look() {
    const since = [...digests].map(([name, digest]) => name + ":" + digest).join(",");
    const query = new URLSearchParams({ pipeline: chosen(), since });
    const response = await fetch("/live?" + query, { cache: "no-store" });
    if (response.status === 204) return;
    if (!response.ok) throw new Error(await response.text());
    const answer = await response.json();
    shown = answer.pipeline;
    choices(answer.pipeline, answer.pipelines);
    for (const [name, part] of Object.entries(answer.parts)) {
      digests.set(name, part.digest);
      put(name, part.html);
    }
  }

  async function again() {
    if (!document.hidden) {
      try {
        await look();
        byId("gone").hidden = true;
      } catch {
        byId("gone").hidden = false;
      }
    }
    setTimeout(again, 1000);
  }

  byId("pipeline").addEventListener("change", (event) => {
    location.search = new URLSearchParams({ pipeline: event.target.value });
  });

  let running = null;
  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function show(answer) {
    const place = byId("answer");
    if (answer.error !== undefined) {
      place.replaceChildren(element("pre", "error", answer.error));
      return;
    }
    const made = [];
    for (const part of answer.parts) {
      if (part.table !== null) {
        const table = element("div", "scroll");
        table.innerHTML = part.table;
        made.push(table);
      }
      for (const note of part.notes) made.push(element("p", "quiet", note));
    }
    made.push(element("p", "quiet", answer.seconds.toFixed(3) + " s"));
    place.replaceChildren(...made);
  }

  async function ask() {
    if (running) running.abort();
    const mine = (running = new AbortController());
    byId("stop").hidden = false;
    byId("answer").replaceChildren(element("p", "quiet", "…"));
    try {
      const query = new URLSearchParams({ pipeline: shown });
      const body = byId("query").value;
      const response = await fetch("/sql?" + query, { method: "POST", body, signal: mine.signal });
      const type = response.headers.get("content-type") || "";
      show(type.includes("json") ? await response.json() : { error: await response.text() });
    } catch (error) {
      if (running === mine) show({ error: mine.signal.aborted ? "stopped" : "no answer: " + error.message });
    }
    if (running === mine) {
      running = null;
      byId("stop").hidden = true;
    }
  }

  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("stop").addEventListener("click", () => running && running.abort());
  byId("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });
  again();
})();
