// Shows one text at a time: its tokens, coloured twice. No library, no request.
"use strict";

(() => {
  const texts = JSON.parse(document.getElementById("data").textContent);
  const select = document.getElementById("text");
  const shown = document.getElementById("shown");

  const VIRIDIS = [
    [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
    [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
  ];

  // Colour at x in [0, 1], light to dark, so that what is late or surprising is dark.
  function colour(x) {
    const at = (1 - Math.min(Math.max(x, 0), 1)) * (VIRIDIS.length - 1);
    const i = Math.min(Math.floor(at), VIRIDIS.length - 2);
    return VIRIDIS[i].map((c, k) => Math.round(c + (at - i) * (VIRIDIS[i + 1][k] - c)));
  }

  function paint(element, x) {
    const [r, g, b] = colour(x);
    element.style.backgroundColor = `rgb(${r}, ${g}, ${b})`;
    const light = 0.299 * r + 0.587 * g + 0.114 * b;
    element.style.color = light > 140 ? "#000" : "#fff";
  }

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // A bar of colours between two numbers; `never` adds the mark of tokens never right.
  function scale(low, high, unit, never) {
    const stops = [0, 0.25, 0.5, 0.75, 1].map((x) => `rgb(${colour(x).join()})`);
    const bar = make("i", { style: `background: linear-gradient(90deg, ${stops.join()})` });
    const row = make("div", { class: "scale" }, low, bar, `${high} ${unit}`);
    if (never) row.append(make("b", {}, "never right"));
    return row;
  }

  const visible = (token) => token.replace(/\n/g, "↵") || "∅";

  // One panel: `place(i)` is where token i is on the scale, null where it never was right,
  // undefined where it is given and not scored.
  function panel(title, tokens, place, key) {
    const spans = tokens.flatMap((token, i) => {
      const x = place(i);
      const span = make("span", { "data-i": i }, visible(token));
      if (x === undefined) span.className = "given";
      else if (x === null) span.className = "never";
      else paint(span, x);
      return token.includes("\n") ? [span, "\n"] : [span];
    });
    return make(
      "div", {}, make("h4", {}, title), key, make("div", { class: "tokens" }, ...spans));
  }

  const bits = (nats) => nats / Math.LN2;

  function stepPanel(text) {
    const steps = text.first_right_steps;
    const given = (i) => text.surprise_nats && text.surprise_nats[i] === null;
    const right = steps.filter((s) => s >= 0);
    const missing = steps.some((s, i) => s < 0 && !given(i));
    const low = Math.min(...right), high = Math.max(...right);
    // Logarithmic: half of the tokens are right in the first tenth of the steps.
    const log = (s) => Math.log(s + 1);
    const width = log(high) - log(low) || 1;
    const place = (i) => {
      if (given(i)) return undefined;
      return steps[i] < 0 ? null : (log(steps[i]) - log(low)) / width;
    };
    const key = right.length
      ? scale(low, high, "steps", missing)
      : make("div", { class: "scale" }, "no token was ever right");
    return panel("Step at which it was first right", text.tokens_text, place, key);
  }

  function surprisePanel(text) {
    const values = text.surprise_nats;
    const high = Math.max(...values.map(bits), 1);
    const key = scale("0", high.toFixed(1), "bits", false);
    const place = (i) => (values[i] === null ? undefined : bits(values[i]) / high);
    return panel("Surprise without memory", text.tokens_text, place, key);
  }

  // What is under the pointer, in both panels and in words.
  function follow(text, panels, at) {
    panels.addEventListener("mouseover", (event) => {
      const i = event.target.dataset ? event.target.dataset.i : undefined;
      if (i === undefined) return;
      for (const span of panels.querySelectorAll("span")) {
        span.classList.toggle("on", span.dataset.i === i);
      }
      const words = [`Token ${Number(i) + 1} of ${text.tokens_text.length}, ` +
        JSON.stringify(text.tokens_text[i])];
      if (text.surprise_nats && text.surprise_nats[i] === null) {
        at.textContent = [...words, "given, not scored"].join(" · ");
        return;
      }
      if (text.first_right_steps) {
        const step = text.first_right_steps[i];
        words.push(step < 0 ? "never right" : `first right at step ${step}`);
      }
      if (text.surprise_nats) {
        words.push(`${bits(text.surprise_nats[i]).toFixed(2)} bits of surprise`);
      }
      at.textContent = words.join(" · ");
    });
  }

  function show(index) {
    const text = texts[index];
    select.value = String(index);
    const panels = make("div", { class: "panels" });
    if (text.tokens_text && text.first_right_steps) panels.append(stepPanel(text));
    if (text.tokens_text && text.surprise_nats) panels.append(surprisePanel(text));
    const at = make("p", { id: "at" }, panels.children.length
      ? "Point at a token."
      : "This run kept no numbers for each token.");
    follow(text, panels, at);
    shown.replaceChildren(make("p", { id: "facts" }, text.facts), at, panels);
    const plain = (title, words) => shown.append(
      make("h4", {}, title), make("div", { class: "tokens" }, words));
    if (!panels.children.length && text.text) plain("The text", text.text);
    if (!text.exact && text.decoded) plain("What came back, decoded greedily", text.decoded);
    shown.dataset.shown = String(index);
  }

  function fromHash() {
    const found = /^#text=(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < texts.length) show(Number(found[1]));
    else if (!shown.dataset.shown && texts.length) show(0);
  }

  function go(index) {
    const to = (index + texts.length) % texts.length;
    history.replaceState(null, "", `#text=${to}`);
    show(to);
  }

  if (!texts.length) {
    document.getElementById("picker").hidden = true;
    return;
  }
  const groups = new Map();
  texts.forEach((text, index) => {
    if (!groups.has(text.group)) {
      groups.set(text.group, make("optgroup", { label: text.group }));
    }
    groups.get(text.group).append(make("option", { value: index }, text.name));
  });
  select.append(...groups.values());
  select.addEventListener("change", () => go(Number(select.value)));
  const step = (by) => () => go(Number(select.value) + by);
  document.getElementById("before").addEventListener("click", step(-1));
  document.getElementById("after").addEventListener("click", step(1));
  window.addEventListener("hashchange", fromHash);
  fromHash();
})();
