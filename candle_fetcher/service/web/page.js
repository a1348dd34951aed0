"use strict";
// The page at `/`: one form, one chart, and tables. Text of providers reaches the document as text alone.

const $ = (id) => document.getElementById(id);
const MINUTE = 60_000;
const UNIT_MS = { s: 1_000, m: MINUTE, h: 60 * MINUTE, d: 1_440 * MINUTE, w: 7 * 1_440 * MINUTE, M: 30 * 1_440 * MINUTE };
const ASK_SECONDS = 3; // a fetch that takes longer is asked for first
const MOST_SHADES = 400;
const CSV_ROWS = 1_000_000;
const CAUSES = {
  no_candle: "the provider has no candle here",
  not_listed: "the symbol was not listed yet",
  delisted: "the symbol is not traded any more",
  unverified: "could not be verified",
  missing: "could not be fetched",
};
const COLOURS = { stored: "--up", unverified: "--gap", no_candle: "--faint", not_listed: "--line", delisted: "--line" };

const state = {
  providers: [], spec: null, full: null, view: null, shown: null, other: null, price: null, asked: 0, drawn: 0, steps: 0,
  candles: null, quotes: null, quoteRows: new Map(), reload: 0,
};

class ApiError extends Error {
  constructor(status, document, wait) {
    super(document.message || `the service answered ${status}`);
    this.status = status;
    this.document = document;
    this.wait = wait;
  }
}

async function api(path, words, signal) {
  const query = new URLSearchParams(Object.entries(words || {}).filter(([, value]) => value !== "" && value != null));
  let answer;
  try {
    answer = await fetch(`${path}?${query}`, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "the service does not answer", fix: "Is `candle-fetcher serve` still running?" });
  }
  const document = await answer.json().catch(() => ({ message: `the service answered ${answer.status} without JSON` }));
  if (!answer.ok) throw new ApiError(answer.status, document, answer.headers.get("retry-after"));
  return document;
}

// -- text -----------------------------------------------------------------------------------------------------------

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 12, useGrouping: true });
const number = (value) => (value == null || Number.isNaN(value) ? "–" : plain.format(value));
const count = (value, word) => `${number(value)} ${word}${value === 1 ? "" : "s"}`;
const iso = (ms) => new Date(ms).toISOString().replace(/\.000Z$/, "Z");
const minute = (ms) => new Date(ms).toISOString().slice(0, 16).replace("T", " ");
const cause = (name) => CAUSES[name] || String(name).replaceAll("_", " ");
const bytes = (value) => value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : value >= 1e6 ? `${(value / 1e6).toFixed(1)} MB`
  : `${Math.ceil(value / 1e3)} KB`;
const timeframeMs = (text) => parseInt(text, 10) * UNIT_MS[text.slice(-1)];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function element(tag, text, classes) {
  const made = document.createElement(tag);
  if (text != null) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function fill(table, heads, rows) {
  const head = element("tr");
  heads.forEach(([text, isNumber]) => {
    const cell = element("th", text, isNumber ? "number" : "");
    cell.scope = "col";
    head.append(cell);
  });
  const body = rows.map((row) => {
    const line = element("tr");
    line.append(...row.map((cell, at) => cell instanceof Node ? wrapped(cell) : element("td", cell, heads[at][1] ? "number" : "")));
    return line;
  });
  const top = element("thead");
  top.append(head);
  const rest = element("tbody");
  rest.append(...body);
  table.replaceChildren(top, rest);
}

function wrapped(node) {
  const cell = element("td");
  cell.append(node);
  return cell;
}

function say(text) { $("status").textContent = text; }

function refuse(error, retry) {
  if (error.name === "AbortError") return;
  const box = $("error");
  const wait = error.wait ? ` Wait ${error.wait} s.` : "";
  const parts = [element("p", `${sentence(error.message)}${wait}`)];
  const facts = error.document || {};
  if (facts.fix) parts.push(element("p", sentence(facts.fix)));
  if (facts.missing) {
    const lost = facts.missing.slice(0, 5).map((one) => `${one.first} to ${one.last} (${count(one.count, "candle")}: ${cause(one.cause)})`);
    parts.push(element("p", `Missing: ${lost.join("; ")}${facts.missing.length > 5 ? "; …" : ""}`));
  }
  if (retry) {
    const again = element("button", "Try again");
    again.type = "button";
    again.addEventListener("click", retry);
    parts.push(again);
  }
  box.replaceChildren(...parts);
  box.hidden = false;
  say("Nothing to show.");
}

const sentence = (text) => {
  const cut = String(text).trim();
  return cut.charAt(0).toUpperCase() + cut.slice(1) + (/[.!?]$/.test(cut) ? "" : ".");
};

// -- the form -------------------------------------------------------------------------------------------------------

function providerOf(name) { return state.providers.find((one) => one.provider === name); }

function fillTimeframes(wanted) {
  const known = (providerOf($("provider").value) || { timeframes: "1h" }).timeframes.split(" ");
  $("timeframe").replaceChildren(...known.map((name) => new Option(name, name)));
  $("timeframe").value = known.includes(wanted) ? wanted : known.includes("1h") ? "1h" : known[0];
}

function fillProviders(wanted, other) {
  const label = (one) => one.provider + (one.key === "none" || one.key.startsWith("optional") ? "" : " (needs a key)");
  const needs = (one) => label(one).endsWith(")");
  const sorted = [...state.providers].sort((a, b) => needs(a) - needs(b) || (a.provider < b.provider ? -1 : 1));
  $("provider").replaceChildren(...sorted.map((one) => new Option(label(one), one.provider)));
  $("other").replaceChildren(new Option("–", ""), ...sorted.map((one) => new Option(label(one), one.provider)));
  $("provider").value = providerOf(wanted) ? wanted : "binance";
  $("other").value = providerOf(other) ? other : "";
}

let searching = null;
async function search() {
  const query = $("symbol").value.trim();
  if (searching) searching.abort();
  const provider = providerOf($("provider").value);
  if (query.length < 2 || !provider || provider.symbols !== "listed") return;
  searching = new AbortController();
  try {
    const found = await api("/api/symbols", { provider: provider.provider, query, limit: 200 }, searching.signal);
    const lower = query.toLowerCase();
    const rank = (one) => (one.symbol.toLowerCase().startsWith(lower) ? 0 : 1);
    found.sort((a, b) => rank(a) - rank(b) || a.symbol.length - b.symbol.length || (a.symbol < b.symbol ? -1 : 1));
    $("symbols").replaceChildren(...found.slice(0, 30).map((one) => new Option(one.symbol, one.symbol)));
  } catch { /* the list is a help; an error shows when the candles are asked for */ }
}

function readForm() {
  const range = $("range").value;
  const spec = { provider: $("provider").value, symbol: $("symbol").value.trim(), timeframe: $("timeframe").value };
  if (range === "own") Object.assign(spec, { start: $("start").value.trim(), end: $("end").value.trim() });
  else if (range === "first") spec.start = "first";
  else spec.days = range;
  return spec;
}

function keepInAddress() {
  const words = { ...readForm(), range: $("range").value, other: $("other").value, live: $("live").checked ? "1" : "" };
  if (words.range !== "own") { delete words.start; delete words.end; }
  delete words.days;
  const query = new URLSearchParams(Object.entries(words).filter(([, value]) => value));
  history.replaceState(null, "", `?${query}`);
}

function readAddress() {
  const given = new URLSearchParams(location.search);
  const text = (name, otherwise) => given.get(name) || otherwise;
  fillProviders(text("provider", "binance"), text("other", ""));
  $("symbol").value = text("symbol", "BTC/USDT");
  fillTimeframes(text("timeframe", "1h"));
  const ranges = [...$("range").options].map((one) => one.value);
  $("range").value = ranges.includes(text("range", "30")) ? text("range", "30") : "30";
  $("start").value = text("start", "");
  $("end").value = text("end", "");
  $("live").checked = given.get("live") === "1";
  showOwn();
}

function showOwn() {
  document.querySelectorAll(".own").forEach((one) => { one.hidden = $("range").value !== "own"; });
}

// -- loading --------------------------------------------------------------------------------------------------------

let loading = null;
async function show() {
  if (loading) loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  const spec = readForm();
  keepInAddress();
  stopLive();
  $("error").hidden = true;
  $("plan").hidden = true;
  say("Looking what is stored…");
  try {
    const plan = await api("/api/plan", spec, signal);
    if (plan.requests && plan.seconds > ASK_SECONDS && !(await agreed(plan, signal))) {
      say("Not fetched.");
      return;
    }
    await fetchAndDraw(spec, plan, signal);
  } catch (error) {
    refuse(error, show);
  }
}

function agreed(plan, signal) {
  const seconds = plan.seconds >= 90 ? `${Math.ceil(plan.seconds / 60)} minutes` : `${Math.ceil(plan.seconds)} s`;
  $("plan-text").textContent = `${count(plan.candles, "candle")}: ${count(plan.requests, "request")} to ${plan.provider}, `
    + `about ${bytes(plan.bytes)} and ${seconds}. What is fetched stays in the cache.`;
  $("plan").hidden = false;
  say("This takes a while.");
  $("fetch").focus();
  return new Promise((resolve, reject) => {
    const end = (value) => { $("plan").hidden = true; resolve(value); };
    $("fetch").onclick = () => end(true);
    $("cancel").onclick = () => end(false);
    signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
  });
}

async function fetchAndDraw(spec, plan, signal) {
  say(plan.requests ? `Fetching ${count(plan.requests, "request")}…` : "Reading…");
  const stop = watchProgress(spec, plan);
  let found;
  try {
    found = await api("/api/chart", { ...spec, points: roomFor(1) }, signal);
  } finally {
    stop();
  }
  state.spec = { provider: found.provider, symbol: found.symbol, timeframe: found.timeframe };
  state.full = [Date.parse(found.start), Date.parse(found.end)];
  state.view = [...state.full];
  state.price = null;
  state.other = null;
  take(found, state.full);
  describe(found);
  await draw();
  afterwards(found, signal);
}

function afterwards(found, signal) {
  const isLocal = found.origin && /\/\/(127\.|localhost|\[::1\])/.test(found.origin);
  $("practice").hidden = !isLocal;
  compare(signal);
  showCache().catch(() => {});
  if ($("live").checked) startLive();
  if (!$("quote-symbols").value) {
    $("quote-symbols").value = `${found.provider}:${found.symbol}`;
    showQuotes();
  }
}

function watchProgress(spec, plan) {
  const bar = $("progress");
  if (!plan.requests) return () => {};
  bar.value = 0;
  bar.classList.add("on");
  const timer = setInterval(async () => {
    try {
      const left = await api("/api/plan", spec);
      bar.value = Math.max(bar.value, 1 - left.requests / plan.requests);
    } catch { /* the fetch itself says what is wrong */ }
  }, 700);
  return () => { clearInterval(timer); bar.value = 1; bar.classList.remove("on"); };
}

function take(found, span) { state.shown = { ...found, span }; }

// How many candles are drawn over so many widths of the chart: one for each 4 pixels.
const roomFor = (widths) => Math.max(60, Math.min(4_800, Math.round(($("chart").clientWidth / 4) * widths)));

async function compare(signal) {
  state.other = null;
  const other = $("other").value;
  if (!other) return;
  const { symbol, timeframe } = state.spec;
  const [start, end] = state.full.map(iso);
  try {
    const found = await api("/api/chart", { provider: other, symbol, timeframe, start, end, points: roomFor(1) }, signal);
    state.other = found;
    await draw();
  } catch (error) {
    if (error.name !== "AbortError") say(`${$("status").textContent} ${other}: ${error.message}`);
  }
}

function describe(found) {
  const { provider, symbol, timeframe } = found;
  const [start, end] = state.full;
  const last = found.c.length ? `, last close ${number(found.c[found.c.length - 1])}` : "";
  const coarse = found.cell ? `; drawn as candles of ${found.cell}` : "";
  const gaps = found.gap_count ? `${count(found.gap_count, "gap")}` : "no gaps";
  say(`${symbol} ${timeframe} on ${provider}, ${minute(start)} to ${minute(end)} UTC: ${count(found.rows, "candle")}${coarse}, ${gaps}${last}.`);
  $("chart").setAttribute("aria-label", `Chart: ${$("status").textContent}`);
  $("empty").hidden = found.rows > 0;
  $("empty").textContent = found.rows ? "" : `${provider} has no candle of ${symbol} ${timeframe} in this range. Choose a longer range, or another symbol.`;
  document.title = `${symbol} ${timeframe} · candle_fetcher`;
  const words = { symbol, timeframe, provider, start: iso(start), end: iso(end) };
  for (const format of ["csv", "parquet"]) {
    const link = $(format);
    const fits = found.rows > 0 && found.rows <= CSV_ROWS;
    link.setAttribute("aria-disabled", String(!fits));
    link.title = fits ? `${count(found.rows, "row")} as ${format}` : `a file here has 1 to ${number(CSV_ROWS)} rows; use candle-fetcher export`;
    if (fits) link.href = `/api/candles?${new URLSearchParams({ ...words, format })}`; else link.removeAttribute("href");
  }
  const text = (value) => JSON.stringify(value);
  $("python").value = "from candle_fetcher import fetch; frame = "
    + `fetch(${text(symbol)}, ${text(timeframe)}, ${text(iso(start))}, ${text(iso(end))}, provider=${text(provider)})`;
  showTable(found);
  showGaps(found);
}

function showTable(found) {
  const last = found.t.map((_, at) => at).slice(-50).reverse();
  fill($("table"), [["opens (UTC)"], ["open", 1], ["high", 1], ["low", 1], ["close", 1], ["volume", 1]],
    last.map((at) => [minute(found.t[at]), ...["o", "h", "l", "c", "v"].map((name) => number(found[name][at]))]));
}

function showGaps(found) {
  $("gap-count").textContent = `(${number(found.gap_count)})`;
  fill($("gaps"), [["first (UTC)"], ["last (UTC)"], ["candles", 1], ["cause"]],
    found.gaps.slice(0, 200).map((gap) => [minute(Date.parse(gap.first)), minute(Date.parse(gap.last)), number(gap.count), cause(gap.cause)]));
}

// -- the chart ------------------------------------------------------------------------------------------------------

const stepMs = () => (state.shown.cell ? timeframeMs(state.shown.cell) : timeframeMs(state.spec.timeframe));

function within(times, from, to) {
  const find = (ms) => {
    let low = 0, high = times.length;
    while (low < high) { const middle = (low + high) >> 1; if (times[middle] < ms) low = middle + 1; else high = middle; }
    return low;
  };
  return [find(from), find(to)];
}

function extent() {
  const { t, l, h, v } = state.shown;
  const [from, to] = within(t, state.view[0] - stepMs(), state.view[1] + stepMs());
  let low = Infinity, high = -Infinity, most = 0;
  for (let at = from; at < to; at++) {
    if (l[at] < low && l[at] != null) low = l[at];
    if (h[at] > high && h[at] != null) high = h[at];
    if (v[at] > most) most = v[at];
  }
  if (!(high >= low)) return { price: [0, 1], volume: [0, 1] };
  const room = (high - low || Math.abs(high) * 0.01 || 1) * 0.06;
  return { price: [low - room, high + room], volume: [0, most * 1.05 || 1] };
}

function shades() {
  const half = stepMs() / 2, own = timeframeMs(state.spec.timeframe);
  const pixel = (state.view[1] - state.view[0]) / Math.max(1, $("chart").clientWidth);
  const made = [];
  for (const gap of state.shown.gaps) {
    const from = Date.parse(gap.first), to = Date.parse(gap.last) + own;
    const before = made[made.length - 1];
    if (before && before.cause === gap.cause && from - before.to < pixel) { before.to = to; before.count += gap.count; }
    else made.push({ from, to, cause: gap.cause, count: gap.count });
  }
  return made.slice(0, MOST_SHADES).map((one) => ({ ...one, x0: one.from - half, x1: Math.max(one.to - half, one.from - half + pixel) }));
}

function shapes(list) {
  const made = list.map((one) => ({
    type: "rect", xref: "x", yref: "paper", x0: one.x0, x1: one.x1, y0: 0, y1: 1, layer: "below",
    fillcolor: colour("--gap"), opacity: 0.25, line: { width: 0 },
  }));
  if (state.price != null) {
    made.push({ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y", y0: state.price, y1: state.price,
      line: { color: colour("--accent"), width: 1, dash: "dot" } });
  }
  return made;
}

function traces(list) {
  const { t, o, h, l, c, v } = state.shown;
  const up = colour("--up"), down = colour("--down");
  const made = [
    { type: "candlestick", name: state.spec.provider, x: t, open: o, high: h, low: l, close: c, xaxis: "x", yaxis: "y",
      increasing: { line: { color: up, width: 1 }, fillcolor: up }, decreasing: { line: { color: down, width: 1 }, fillcolor: down } },
    { type: "bar", name: "volume", x: t, y: v, xaxis: "x", yaxis: "y2", hovertemplate: "volume %{y}<extra></extra>",
      marker: { color: t.map((_, at) => (c[at] >= o[at] ? up : down)), opacity: 0.6, line: { width: 0 } } },
  ];
  if (state.other) {
    made.push({ type: "scatter", mode: "lines", name: state.other.provider, x: state.other.t, y: state.other.c, yaxis: "y",
      line: { color: colour("--accent"), width: 1.5 }, hovertemplate: `${state.other.provider} %{y}<extra></extra>` });
  }
  const points = list.flatMap((one) => {
    const many = Math.max(1, Math.min(40, Math.round((one.x1 - one.x0) / stepMs())));
    return Array.from({ length: many }, (_, at) => [one.x0 + ((at + 0.5) * (one.x1 - one.x0)) / many, one]);
  });
  if (points.length) {
    made.push({ type: "scatter", mode: "markers", name: "gap", x: points.map(([x]) => x), y: points.map(() => 0.5), yaxis: "y3",
      marker: { opacity: 0, size: 12, color: colour("--gap") }, showlegend: false,
      text: points.map(([, one]) => `gap: ${cause(one.cause)}<br>${count(one.count, "candle")}<br>${minute(one.from)} to ${minute(one.to)} UTC`),
      hovertemplate: "%{text}<extra></extra>" });
  }
  return made;
}

function layout(list) {
  const { price, volume } = extent();
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), tickcolor: colour("--line"), zeroline: false };
  return {
    margin: { l: 8, r: 70, t: 10, b: 46 }, paper_bgcolor: colour("--back"), plot_bgcolor: colour("--back"),
    font: { color: colour("--front"), size: 12 }, hovermode: "x", dragmode: "pan", showlegend: Boolean(state.other),
    legend: { x: 0, y: 1, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--front") } },
    xaxis: { ...axis, type: "date", range: state.view.map((ms) => ms - stepMs() / 2), rangeslider: { visible: false }, anchor: "y2",
      hoverformat: "%Y-%m-%d %H:%M UTC", nticks: Math.max(3, Math.round($("chart").clientWidth / 130)) },
    yaxis: { ...axis, range: price, side: "right", domain: [0.24, 1], fixedrange: true, exponentformat: "none", tickformat: tickFormat(price) },
    yaxis2: { ...axis, range: volume, side: "right", domain: [0, 0.2], fixedrange: true, nticks: 3, tickformat: "~s" },
    yaxis3: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    shapes: shapes(list), bargap: 0.2,
  };
}

function tickFormat([low, high]) {
  const places = Math.max(0, Math.min(12, 2 - Math.floor(Math.log10(high - low || 1))));
  return `,.${places}f`;
}

async function draw() {
  const began = performance.now();
  if (!window.Plotly) {
    refuse(new ApiError(501, { message: "the chart needs the package plotly", fix: 'pip install "candle-fetcher[service]", and start the service again' }));
    return;
  }
  const list = shades();
  state.quiet = true;
  await Plotly.react($("chart"), traces(list), layout(list), { displayModeBar: false, scrollZoom: true, responsive: true, doubleClick: false });
  state.quiet = false;
  if (!state.listens) {
    state.listens = true;
    $("chart").on("plotly_relayout", onMove);
    $("chart").on("plotly_doubleclick", () => look(state.full));
  }
  state.drawn += 1;
  $("chart").dataset.drawn = state.drawn;
  $("chart").dataset.drawMs = Math.round(performance.now() - began);
}

function onMove(change) {
  if (state.quiet) return;
  const ends = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
  if (ends[0] == null) return;
  const half = stepMs() / 2;
  const [from, to] = ends.map((one) => (typeof one === "number" ? one : Date.parse(`${String(one).replace(" ", "T")}Z`)) + half);
  look([from, to]);
}

// Show another part of the range: at once what is there of it, then candles of the right length for it.
async function look([from, to]) {
  const began = performance.now();
  const [first, last] = state.full;
  const least = 5 * timeframeMs(state.spec.timeframe);
  const width = Math.max(Math.min(to - from, last - first), Math.min(least, last - first));
  const start = Math.min(Math.max(from, first), last - width);
  state.view = [start, start + width];
  const { xaxis, yaxis, yaxis2 } = layout([]);
  state.quiet = true;
  await Plotly.relayout($("chart"), { "xaxis.range": xaxis.range, "yaxis.range": yaxis.range, "yaxis.tickformat": yaxis.tickformat, "yaxis2.range": yaxis2.range });
  state.quiet = false;
  $("chart").dataset.stepMs = Math.round(performance.now() - began);
  state.steps += 1;
  $("chart").dataset.steps = state.steps;
  clearTimeout(state.refining);
  if (isRough(width)) state.refining = setTimeout(refine, 80);
}

function isRough(width) {
  const { span, cell, t } = state.shown, [from, to] = state.view, [first, last] = state.full;
  const isNear = (span[0] > first && from - span[0] < width / 2) || (span[1] < last && span[1] - to < width / 2);
  const [low, high] = within(t, from, to);
  return isNear || (cell && high - low < roomFor(1) * 0.6) || high - low > roomFor(1) * 2.5;
}

async function refine() {
  const [first, last] = state.full, [from, to] = state.view, width = to - from, asked = ++state.asked;
  const span = [Math.max(first, from - width), Math.min(last, to + width)];
  try {
    const words = { ...state.spec, start: iso(floorTo(span[0])), end: iso(ceilTo(span[1])), points: roomFor((span[1] - span[0]) / width) };
    const found = await api("/api/chart", words);
    if (asked !== state.asked) return;
    const { rows, gap_count, gaps } = state.shown;
    take({ ...found, rows, gap_count, gaps }, span);
    await draw();
  } catch (error) {
    if (asked === state.asked) refuse(error);
  }
}

const floorTo = (ms) => Math.floor(ms / 1000) * 1000;
const ceilTo = (ms) => Math.ceil(ms / 1000) * 1000;

function onKey(event) {
  if (!state.shown || event.ctrlKey || event.metaKey || event.altKey) return;
  const [from, to] = state.view, width = to - from, middle = (from + to) / 2;
  const moves = {
    ArrowLeft: [from - width / 5, to - width / 5], ArrowRight: [from + width / 5, to + width / 5],
    "+": [middle - width / 4, middle + width / 4], "=": [middle - width / 4, middle + width / 4],
    "-": [middle - width, middle + width], Home: state.full, End: [state.full[1] - width, state.full[1]],
  };
  if (moves[event.key]) { event.preventDefault(); look(moves[event.key]); }
}

// -- live -----------------------------------------------------------------------------------------------------------

function follow(path, words, kinds, note) {
  let source = null, timer = 0, isOver = false;
  const open = () => {
    source = new EventSource(`${path}?${new URLSearchParams(words)}`);
    source.onopen = () => note("");
    source.onerror = (event) => {
      if (event.data) { note(JSON.parse(event.data).message || "a candle could not be fetched"); return; }
      note("connection lost; trying again");
      if (source.readyState === EventSource.CLOSED && !isOver) { clearTimeout(timer); timer = setTimeout(open, 5_000); }
    };
    for (const [kind, handle] of Object.entries(kinds)) source.addEventListener(kind, (event) => handle(JSON.parse(event.data)));
  };
  open();
  return () => { isOver = true; clearTimeout(timer); source.close(); };
}

function startLive() {
  stopLive();
  if (!state.spec) return;
  const { provider, symbol, timeframe } = state.spec;
  const note = (text) => { $("stream").textContent = text ? `live: ${text}` : "live"; };
  note("connecting");
  const ends = [
    follow("/api/stream", { symbols: symbol, timeframe, provider }, { candle: onCandle }, note),
    follow("/api/stream", { symbols: symbol, provider }, { quote: onPrice }, () => {}),
  ];
  state.candles = () => ends.forEach((end) => end());
}

function stopLive() {
  if (state.candles) state.candles();
  state.candles = null;
  $("stream").textContent = "";
}

function onCandle(candle) {
  const opens = Date.parse(candle.timestamp), ends = opens + timeframeMs(state.spec.timeframe);
  $("stream").textContent = `live: the candle of ${minute(opens)} closed at ${number(candle.close)}`;
  if (ends <= state.full[1]) return;
  const isAtEnd = state.view[1] >= state.full[1], moved = ends - state.full[1];
  state.full[1] = ends;
  if (isAtEnd) state.view = [Math.max(state.full[0], state.view[0] + moved), ends];
  clearTimeout(state.reload);
  state.reload = setTimeout(reloadEdge, 250);
}

async function reloadEdge() {
  const { symbol } = state.spec;
  try {
    const [start, end] = state.full;
    const found = await api("/api/chart", { ...state.spec, start: iso(start), end: iso(end), points: roomFor((end - start) / (state.view[1] - state.view[0])) });
    if (symbol !== state.spec.symbol) return;
    take(found, state.full);
    describe(found);
    await draw();
  } catch (error) {
    $("stream").textContent = `live: ${error.message}`;
  }
}

function onPrice(quote) {
  if (quote.last_price == null || quote.is_stale || quote.last_price === state.price) return;
  state.price = quote.last_price;
  if (!state.listens || state.pending) return;
  state.pending = true;
  requestAnimationFrame(async () => {
    state.quiet = true;
    await Plotly.relayout($("chart"), { shapes: shapes(shades()) });
    state.quiet = false;
    state.pending = false;
  });
}

// -- quotes and cache -----------------------------------------------------------------------------------------------

async function showQuotes(event) {
  if (event) event.preventDefault();
  if (state.quotes) state.quotes();
  state.quotes = null;
  state.quoteRows = new Map();
  const symbols = $("quote-symbols").value.trim();
  if (!symbols) { $("quotes").replaceChildren(); $("quote-state").textContent = ""; return; }
  $("quote-state").textContent = "Asking…";
  try {
    const found = (await api("/api/quotes", { symbols })).symbols;
    const names = symbols.split(",").map((one) => one.trim()).filter(Boolean);
    const keys = [...new Set(names)];
    found.forEach((quote, at) => state.quoteRows.set(keys[at] || quote.symbol, quote));
    drawQuotes();
    $("quote-state").textContent = "";
    const good = keys.filter((key) => !state.quoteRows.get(key)?.error);
    if (good.length) {
      const bare = new Map(good.map((key) => [quoteKey(key, state.quoteRows.get(key)), key]));
      const onQuote = (quote) => {
        const key = bare.get(`${quote.provider}:${quote.name}`) || bare.get(quote.name) || quote.name;
        state.quoteRows.set(key, quote);
        drawQuotes();
      };
      state.quotes = follow("/api/stream", { symbols: good.join(",") }, { quote: onQuote }, (text) => { $("quote-state").textContent = text; });
    }
  } catch (error) {
    $("quote-state").textContent = sentence(error.message);
  }
}

const quoteKey = (key, quote) => `${quote.provider}:${key.includes(":") ? key.slice(key.indexOf(":") + 1) : key}`;

function drawQuotes() {
  const heads = [["symbol"], ["provider"], ["last", 1], ["bid", 1], ["ask", 1], ["volume", 1], ["age", 1], ["state"]];
  fill($("quotes"), heads, [...state.quoteRows].map(([key, one]) => {
    const said = element("span", one.error ? one.error : one.is_stale ? "stale" : "ok");
    const age = one.age_s == null ? "–" : `${one.age_s.toFixed(1)} s`;
    return [key, one.provider || "–", number(one.last_price), number(one.bid_price), number(one.ask_price), number(one.volume), age, said];
  }));
  [...$("quotes").querySelectorAll("tbody tr")].forEach((row, at) => {
    const one = [...state.quoteRows.values()][at];
    row.lastChild.className = one.error ? "error" : one.is_stale ? "stale" : "";
  });
}

async function showCache() {
  const found = await api("/api/cache");
  $("cache-size").textContent = `${bytes(found.disk_bytes)} of ${bytes(found.disk_max_bytes)} on disk, `
    + `${bytes(found.memory_bytes)} in memory, ${count(found.series.length, "series").replace("seriess", "series")}.`;
  const rows = found.series.slice(0, 200).map((one) => {
    const open = element("button", one.symbol, "cell");
    open.type = "button";
    open.title = "show this series";
    open.addEventListener("click", () => openSeries(one));
    const text = (value) => (value ? minute(Date.parse(value)) : "–");
    return [open, one.provider, one.timeframe, one.kind, number(one.rows), text(one.first), text(one.last), bytes(one.bytes)];
  });
  fill($("cache"), [["symbol"], ["provider"], ["timeframe"], ["kind"], ["rows", 1], ["first (UTC)"], ["last (UTC)"], ["size", 1]], rows);
  if (!found.series.length) $("cache").replaceChildren(element("caption", "Nothing is stored yet: what you show is kept here."));
  if (state.spec) await showCoverage();
}

function openSeries(one) {
  $("provider").value = one.provider;
  fillTimeframes(one.timeframe);
  $("symbol").value = one.symbol;
  $("range").value = "own";
  $("start").value = one.first || "";
  $("end").value = one.last ? iso(Date.parse(one.last) + timeframeMs(one.timeframe)) : "";
  showOwn();
  show();
  $("form").scrollIntoView({ block: "start" });
}

async function showCoverage() {
  const [start, end] = state.full;
  const { provider, symbol, timeframe } = state.spec;
  const spans = await api("/api/coverage", { provider, symbol, timeframe, start: iso(start), end: iso(end) });
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 1000 10");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  const kinds = new Map();
  for (const span of spans) {
    const from = (1000 * (Date.parse(span.start) - start)) / (end - start), to = (1000 * (Date.parse(span.end) - start)) / (end - start);
    const box = document.createElementNS(space, "rect");
    const paint = colour(COLOURS[span.state] || "--down");
    const set = { x: Math.max(0, from), width: Math.max(0.5, Math.min(1000, to) - Math.max(0, from)), y: 0, height: 10, fill: paint };
    Object.entries(set).forEach(([name, value]) => box.setAttribute(name, value));
    const title = document.createElementNS(space, "title");
    title.textContent = `${String(span.state).replaceAll("_", " ")}: ${minute(Date.parse(span.start))} to ${minute(Date.parse(span.end))} UTC`;
    box.append(title);
    picture.append(box);
    kinds.set(span.state, paint);
  }
  picture.setAttribute("aria-label", `What is stored of the range: ${[...kinds.keys()].join(", ").replaceAll("_", " ") || "nothing"}`);
  const legend = element("p", `${symbol} ${timeframe}, ${minute(start)} to ${minute(end)} UTC:`);
  for (const [name, paint] of kinds) {
    const key = element("span", "", "key");
    key.style.background = paint;
    legend.append(key, String(name).replaceAll("_", " "));
  }
  $("coverage").replaceChildren(picture, legend);
}

// -- theme and start ------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
function kept() { try { return localStorage.getItem("theme"); } catch { return null; } }

function paint() {
  const theme = kept() || (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
  if (state.listens) { draw(); showCoverage().catch(() => {}); }
}

async function copy() {
  const box = $("python");
  try {
    await navigator.clipboard.writeText(box.value);
  } catch { // not on https or this machine
    box.select();
    document.execCommand("copy");
  }
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy the Python line"; }, 1_500);
}

async function begin() {
  paint();
  try {
    state.providers = await api("/api/providers");
  } catch (error) {
    document.body.classList.add("ready");
    refuse(error, () => { $("error").hidden = true; begin(); });
    return;
  }
  readAddress();
  document.body.classList.add("ready");
  await show();
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); show(); });
$("provider").addEventListener("change", () => { fillTimeframes($("timeframe").value); $("symbols").replaceChildren(); });
$("symbol").addEventListener("input", search);
$("range").addEventListener("change", showOwn);
$("other").addEventListener("change", () => { keepInAddress(); if (state.spec) compare().then(draw); });
$("live").addEventListener("change", () => { keepInAddress(); if ($("live").checked) startLive(); else stopLive(); });
$("quote-form").addEventListener("submit", showQuotes);
$("copy").addEventListener("click", copy);
$("chart").addEventListener("keydown", onKey);
$("theme").addEventListener("click", () => {
  try { localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark"); } catch { /* not kept */ }
  paint();
});
dark.addEventListener("change", paint);
begin();
