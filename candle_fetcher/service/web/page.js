"use strict";
// The page at `/`: one form, one chart, and tables. Text of providers reaches the document as text alone.

const $ = (id) => document.getElementById(id);
const MINUTE = 60_000;
const UNIT_MS = { s: 1_000, m: MINUTE, h: 60 * MINUTE, d: 1_440 * MINUTE, w: 7 * 1_440 * MINUTE, M: 30 * 1_440 * MINUTE };
const ASK_SECONDS = 3; // a fetch that takes longer is asked for first
const MOST_SHADES = 400;
const MOST_ROWS = 200;
const MOST_AGE_S = 10; // of prices, before they are stale
const AGAIN_MS = 3_000, MOST_WAIT_MS = 30_000;
const LATE_MS = 15_000; // after a candle was due
const MOST_BEHIND = 1_000; // candles that a live chart fetches without a look at what they cost
const MOST_CANDLES = 1_000_000;
const CAUSES = {
  no_candle: "the provider has no candle here",
  not_listed: "the symbol was not listed yet",
  delisted: "the symbol is not traded any more",
  unverified: "could not be verified",
  missing: "could not be fetched",
};
const COLOURS = { stored: "--up", unverified: "--gap", no_candle: "--faint", not_listed: "--line", delisted: "--line" };

// `series` is what the chart shows; what is asked for it is ended with it. `table` is what the quotes are of.
const state = {
  providers: [], series: null, loading: null, table: null, theme: null, listens: false, drawn: 0, steps: 0, searching: null,
  cacheTurn: 0, answerPlan: () => {},
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
  const document = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null; // cut off, or no JSON
  });
  if (document === null) throw new ApiError(answer.status, { message: `the service answered ${answer.status}, and its answer broke off` });
  if (!answer.ok) throw new ApiError(answer.status, document, answer.headers.get("retry-after"));
  return document;
}

// -- text -----------------------------------------------------------------------------------------------------------

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 20, useGrouping: true });
const number = (value) => (value == null || Number.isNaN(value) ? "–" : plain.format(value));
const count = (value, word) => `${number(value)} ${word}${value === 1 ? "" : "s"}`;
const iso = (ms) => new Date(ms).toISOString().replace(/\.000Z$/, "Z");
const minute = (ms) => new Date(ms).toISOString().slice(0, 16).replace("T", " ");
const cause = (name) => CAUSES[name] || String(name).replaceAll("_", " ");
const bytes = (value) => value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : value >= 1e6 ? `${(value / 1e6).toFixed(1)} MB`
  : `${Math.ceil(value / 1e3)} KB`;
const timeframeMs = (text) => parseInt(text, 10) * UNIT_MS[text.slice(-1)];
// When a candle closes: months are as long as they are.
function closeMs(opens, timeframe) {
  if (!timeframe.endsWith("M")) return opens + timeframeMs(timeframe);
  const date = new Date(opens);
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + parseInt(timeframe, 10), 1);
}
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

// What changes by itself, as a live chart does, is not read aloud: its stream says what came.
function say(text, isAloud = true) {
  $("status").setAttribute("aria-live", isAloud ? "polite" : "off");
  $("status").textContent = text;
}

function refuse(error, retry) {
  if (error.name === "AbortError") return;
  const box = $("error");
  const wait = error.wait ? ` Wait ${error.wait} s.` : "";
  const parts = [element("p", `${sentence(error.message)}${wait}`)];
  const facts = error.document || {};
  if (facts.fix && !sentence(error.message).includes(sentence(facts.fix).slice(1))) parts.push(element("p", sentence(facts.fix)));
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
  stay("Nothing to show.");
}

// Say that nothing came, and what the chart still is of.
function stay(text) {
  const { spec } = state.series || {};
  say(spec ? `${text} The chart is still of ${spec.symbol} ${spec.timeframe} on ${spec.provider}.` : text);
}

const sentence = (text) => {
  const cut = String(text).trim();
  return cut.charAt(0).toUpperCase() + cut.slice(1) + (/[.!?]$/.test(cut) ? "" : ".");
};

// -- the form -------------------------------------------------------------------------------------------------------

function providerOf(name) { return state.providers.find((one) => one.provider === name); }

function fillTimeframes(wanted, isExact) {
  const known = (providerOf($("provider").value) || { timeframes: "1h" }).timeframes.split(" ");
  // Multiples, such as 45m, are made of what the provider has; an address may name one.
  if (isExact && /^[1-9]\d{0,3}[smhdwM]$/.test(wanted) && !known.includes(wanted)) known.push(wanted);
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

async function search() {
  const query = $("symbol").value.trim();
  forgetSearch();
  const provider = providerOf($("provider").value);
  if (query.length < 2 || !provider || provider.symbols !== "listed") return;
  state.searching = new AbortController();
  try {
    const found = await api("/api/symbols", { provider: provider.provider, query, limit: 200 }, state.searching.signal);
    const lower = query.toLowerCase();
    const rank = (one) => (one.symbol.toLowerCase().startsWith(lower) ? 0 : 1);
    found.sort((a, b) => rank(a) - rank(b) || a.symbol.length - b.symbol.length || (a.symbol < b.symbol ? -1 : 1));
    $("symbols").replaceChildren(...found.slice(0, 30).map((one) => new Option(one.symbol, one.symbol)));
  } catch { /* the list is a help; an error shows when the candles are asked for */ }
}

function forgetSearch() {
  if (state.searching) state.searching.abort();
  state.searching = null;
}

// A symbol may name its provider, as kraken:BTC/USD does.
function takeProvider() {
  const [, named, rest] = /^([\w-]+):(.+)$/.exec($("symbol").value.trim()) || [];
  if (!named || !providerOf(named.toLowerCase())) return;
  $("provider").value = named.toLowerCase();
  $("symbol").value = rest;
  fillTimeframes($("timeframe").value);
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
  fillTimeframes(text("timeframe", "1h"), true);
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

async function show() {
  if (state.loading) state.loading.abort();
  const control = state.loading = new AbortController();
  takeProvider();
  const spec = readForm();
  keepInAddress();
  $("error").hidden = true;
  $("plan").hidden = true;
  say("Looking what is stored…");
  try {
    const plan = await api("/api/plan", spec, control.signal);
    if (plan.candles > MOST_CANDLES) throw tooMany(plan);
    if (await agreed(plan, control.signal)) await fetchAndDraw(spec, plan, control.signal);
    else stay("Not fetched.");
  } catch (error) {
    refuse(error, show);
  } finally {
    if (state.loading === control) state.loading = null;
  }
}

function tooMany(plan) {
  const message = `the range has up to ${count(plan.candles, "candle")}, and a chart at most ${number(MOST_CANDLES)}`;
  return new ApiError(413, { message, fix: "choose a shorter range, or a longer timeframe" });
}

// Whether a fetch is wanted: one that takes long is asked for.
async function agreed(plan, signal) {
  state.answerPlan(false); // one question at a time
  if (!plan.requests || plan.seconds <= ASK_SECONDS) return true;
  const seconds = plan.seconds >= 90 ? `${Math.ceil(plan.seconds / 60)} minutes` : `${Math.ceil(plan.seconds)} s`;
  $("plan-text").textContent = `${count(plan.candles, "candle")}: ${count(plan.requests, "request")} to ${plan.provider}, `
    + `about ${bytes(plan.bytes)} and ${seconds}. What is fetched stays in the cache.`;
  $("plan").hidden = false;
  say("This takes a while.");
  $("fetch").focus();
  let answer = null;
  try {
    return await new Promise((resolve, reject) => {
      state.answerPlan = answer = resolve;
      signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    });
  } finally {
    if (state.answerPlan === answer) $("plan").hidden = true;
  }
}

async function fetchAndDraw(spec, plan, signal) {
  say(plan.requests ? `Fetching ${count(plan.requests, "request")}…` : "Reading…");
  const stop = watchProgress(spec, plan, signal);
  let found;
  try {
    found = await api("/api/chart", { ...spec, points: roomFor(1) }, signal);
  } finally {
    stop();
  }
  signal.throwIfAborted();
  const full = [Date.parse(found.start), Date.parse(found.end)];
  if (state.series) end(state.series);
  const series = state.series = {
    spec: { provider: found.provider, symbol: found.symbol, timeframe: found.timeframe },
    full, view: [...full], shown: null, other: null, price: null, calls: {}, refining: 0, reloading: 0,
    isOpen: !spec.end || spec.end.toLowerCase() === "now", stopLive: () => {}, isReloading: false, isBehind: false,
  };
  take(series, found, full);
  describe(series, found);
  await draw();
  if (series === state.series) afterwards(series, found);
}

function end(series) {
  Object.values(series.calls).forEach((control) => control.abort());
  clearTimeout(series.refining);
  clearTimeout(series.reloading);
  series.stopLive();
}

// A signal for what is asked for a series; it ends what was asked before for the same purpose.
function fresh(series, purpose) {
  if (series.calls[purpose]) series.calls[purpose].abort();
  const control = series.calls[purpose] = new AbortController();
  if (series !== state.series) control.abort();
  return control.signal;
}

function afterwards(series, found) {
  const isLocal = found.origin && /\/\/(127\.|localhost|\[::1\])/.test(found.origin);
  $("practice").hidden = !isLocal;
  compare();
  showCache();
  switchLive();
  if (!$("quote-symbols").value) {
    $("quote-symbols").value = `${found.provider}:${found.symbol}`;
    showQuotes();
  }
}

function watchProgress(spec, plan, signal) {
  const bar = $("progress");
  if (!plan.requests) return () => {};
  bar.value = 0;
  bar.classList.add("on");
  let timer = 0, isOver = false;
  const ask = async () => { // the next one after the answer: a busy service is not asked more and more
    try {
      const left = await api("/api/plan", spec, signal);
      if (!isOver) bar.value = Math.max(bar.value, 1 - left.requests / plan.requests);
    } catch { /* the fetch itself says what is wrong */ }
    if (!isOver) timer = setTimeout(ask, 700);
  };
  timer = setTimeout(ask, 700);
  return () => { isOver = true; clearTimeout(timer); if (!signal.aborted) bar.classList.remove("on"); };
}

function take(series, found, span) { series.shown = { ...found, span }; }

// How many candles are drawn over so many widths of the chart: one for each 4 pixels.
const roomFor = (widths) => Math.max(60, Math.min(4_800, Math.round(($("chart").clientWidth / 4) * widths)));

async function compare() {
  const { series } = state;
  if (!series) return;
  const other = $("other").value, signal = fresh(series, "compare");
  const hadOther = Boolean(series.other);
  series.other = null;
  if (hadOther) draw();
  if (!other) return;
  const { symbol, timeframe } = series.spec;
  const [start, end] = series.full.map(iso);
  const said = $("status").textContent;
  try {
    const words = { provider: other, symbol, timeframe, start, end };
    if (!(await agreed(await api("/api/plan", words, signal), signal))) return;
    series.other = await api("/api/chart", { ...words, points: roomFor(1) }, signal);
    if (series === state.series) await draw();
  } catch (error) {
    if (error.name !== "AbortError") say(`${said} ${other}: ${error.message}`);
    return;
  } finally {
    if (!signal.aborted && $("status").textContent === "This takes a while.") say(said);
  }
}

function describe(series, found, isAloud) {
  const { provider, symbol, timeframe } = found;
  const [start, end] = series.full;
  const last = found.c.length ? `, last close ${number(found.c[found.c.length - 1])}` : "";
  const coarse = found.cell ? `; drawn as candles of ${found.cell}` : "";
  const gaps = found.gap_count ? `${count(found.gap_count, "gap")}` : "no gaps";
  say(`${symbol} ${timeframe} on ${provider}, ${minute(start)} to ${minute(end)} UTC: ${count(found.rows, "candle")}${coarse}, ${gaps}${last}.`, isAloud);
  $("chart").setAttribute("aria-label", `Chart: ${$("status").textContent}`);
  $("empty").hidden = found.rows > 0;
  $("empty").textContent = found.rows ? "" : `${provider} has no candle of ${symbol} ${timeframe} in this range. Choose a longer range, or another symbol.`;
  document.title = `${symbol} ${timeframe} · candle_fetcher`;
  const words = { symbol, timeframe, provider, start: iso(start), end: iso(end) };
  for (const format of ["csv", "parquet"]) {
    const link = $(format);
    const fits = found.rows > 0 && found.rows <= MOST_CANDLES;
    link.setAttribute("aria-disabled", String(!fits));
    link.title = fits ? `${count(found.rows, "row")} as ${format}` : `a file here has 1 to ${number(MOST_CANDLES)} rows; use candle-fetcher export`;
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
  if (found.cell) $("table").prepend(element("caption", `Candles of ${found.cell}, as they are drawn; a shorter range has those of ${found.timeframe}.`));
}

function showGaps(found) {
  $("gap-count").textContent = `(${number(found.gap_count)}${found.gap_count > MOST_ROWS ? `; the first ${MOST_ROWS} are listed` : ""})`;
  fill($("gaps"), [["first (UTC)"], ["last (UTC)"], ["candles", 1], ["cause"]],
    found.gaps.slice(0, MOST_ROWS).map((gap) => [minute(Date.parse(gap.first)), minute(Date.parse(gap.last)), number(gap.count), cause(gap.cause)]));
}

// -- the chart ------------------------------------------------------------------------------------------------------

const stepMs = () => timeframeMs(state.series.shown.cell || state.series.spec.timeframe);

function within(times, from, to) {
  const find = (ms) => {
    let low = 0, high = times.length;
    while (low < high) { const middle = (low + high) >> 1; if (times[middle] < ms) low = middle + 1; else high = middle; }
    return low;
  };
  return [find(from), find(to)];
}

function extent() {
  const { t, l, h, v } = state.series.shown;
  const [from, to] = within(t, state.series.view[0] - stepMs(), state.series.view[1] + stepMs());
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
  const half = stepMs() / 2;
  const pixel = (state.series.view[1] - state.series.view[0]) / Math.max(1, $("chart").clientWidth);
  const made = [];
  for (const gap of state.series.shown.gaps) {
    const from = Date.parse(gap.first), to = closeMs(Date.parse(gap.last), state.series.spec.timeframe);
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
  if (state.series.price != null) {
    made.push({ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y", y0: state.series.price, y1: state.series.price,
      line: { color: colour("--accent"), width: 1, dash: "dot" } });
  }
  return made;
}

function traces(list) {
  const { t, o, h, l, c, v } = state.series.shown;
  const up = colour("--up"), down = colour("--down");
  const made = [
    { type: "candlestick", name: state.series.spec.provider, x: t, open: o, high: h, low: l, close: c, xaxis: "x", yaxis: "y",
      increasing: { line: { color: up, width: 1 }, fillcolor: up }, decreasing: { line: { color: down, width: 1 }, fillcolor: down } },
    { type: "bar", name: "volume", x: t, y: v, xaxis: "x", yaxis: "y2", hovertemplate: "volume %{y}<extra></extra>",
      marker: { color: t.map((_, at) => (c[at] >= o[at] ? up : down)), opacity: 0.6, line: { width: 0 } } },
  ];
  if (state.series.other) {
    made.push({ type: "scatter", mode: "lines", name: state.series.other.provider, x: state.series.other.t, y: state.series.other.c, yaxis: "y",
      line: { color: colour("--accent"), width: 1.5 }, hovertemplate: `${state.series.other.provider} %{y}<extra></extra>` });
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
    font: { color: colour("--front"), size: 12 }, hovermode: "x", dragmode: "pan", showlegend: Boolean(state.series.other),
    legend: { x: 0, y: 1, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--front") } },
    xaxis: { ...axis, type: "date", range: state.series.view.map((ms) => ms - stepMs() / 2), rangeslider: { visible: false }, anchor: "y2",
      hoverformat: "%Y-%m-%d %H:%M UTC", nticks: Math.max(3, Math.round($("chart").clientWidth / 130)) },
    yaxis: { ...axis, range: price, side: "right", domain: [0.24, 1], fixedrange: true, exponentformat: "none", tickformat: tickFormat(price), hoverformat: hoverFormat(price) },
    yaxis2: { ...axis, range: volume, side: "right", domain: [0, 0.2], fixedrange: true, nticks: 3, tickformat: "~s" },
    yaxis3: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    shapes: shapes(list), bargap: 0.2,
  };
}

function tickFormat([low, high]) {
  const places = Math.max(0, Math.min(20, 2 - Math.floor(Math.log10(high - low || 1))));
  return `,.${places}f`;
}

// As many digits as a float has: what one points at is no rounded number.
function hoverFormat([low, high]) {
  const digits = Math.ceil(Math.log10(Math.max(Math.abs(low), Math.abs(high)) || 1));
  return `,.${Math.max(0, Math.min(20, 14 - digits))}~f`;
}

async function draw() {
  const began = performance.now();
  if (!window.Plotly) {
    refuse(new ApiError(501, { message: "the chart needs the package plotly", fix: 'pip install "candle-fetcher[service]", and start the service again' }));
    return;
  }
  const list = shades();
  await Plotly.react($("chart"), traces(list), layout(list), { displayModeBar: false, scrollZoom: true, responsive: true, doubleClick: false });
  if (!state.listens) {
    state.listens = true;
    $("chart").on("plotly_relayout", onMove);
    $("chart").on("plotly_doubleclick", () => look(state.series.full));
  }
  state.drawn += 1;
  $("chart").dataset.drawn = state.drawn;
  $("chart").dataset.drawMs = Math.round(performance.now() - began);
}

const instant = (one) => (typeof one === "number" ? one : Date.parse(`${String(one).length > 10 ? String(one).replace(" ", "T") : `${one}T00:00`}Z`));

// Follow what was moved by hand; what the page itself has moved is at the view already.
function onMove(change) {
  const ends = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
  if (ends[0] == null || ends[1] == null) return;
  const moved = ends.map((one) => instant(one) + stepMs() / 2);
  if (moved.some(Number.isNaN) || moved.every((ms, at) => Math.abs(ms - state.series.view[at]) < 1)) return;
  look(moved);
}

// Show another part of the range: at once what is there of it, then candles of the right length for it.
async function look([from, to]) {
  const began = performance.now(), { series } = state;
  const [first, last] = series.full;
  const least = 5 * timeframeMs(series.spec.timeframe);
  const width = Math.max(Math.min(to - from, last - first), Math.min(least, last - first));
  const start = Math.min(Math.max(from, first), last - width);
  series.view = [start, start + width];
  clearTimeout(series.refining);
  if (isRough(series)) series.refining = setTimeout(refine, 80, series);
  const { xaxis, yaxis, yaxis2 } = layout([]);
  await Plotly.relayout($("chart"), { "xaxis.range": xaxis.range, "yaxis.range": yaxis.range, "yaxis.tickformat": yaxis.tickformat,
    "yaxis.hoverformat": yaxis.hoverformat, "yaxis2.range": yaxis2.range });
  $("chart").dataset.stepMs = Math.round(performance.now() - began);
  state.steps += 1;
  $("chart").dataset.steps = state.steps;
}

function isRough({ shown, view, full }) {
  const { span, cell, t } = shown, [from, to] = view, [first, last] = full, width = to - from;
  const isNear = (span[0] > first && from - span[0] < width / 2) || (span[1] < last && span[1] - to < width / 2);
  const [low, high] = within(t, from, to);
  return isNear || (cell && high - low < roomFor(1) * 0.6) || high - low > roomFor(1) * 2.5;
}

async function refine(series) {
  const [first, last] = series.full, [from, to] = series.view, width = to - from, signal = fresh(series, "refine");
  const span = [Math.max(first, from - width), Math.min(last, to + width)];
  try {
    const words = { ...series.spec, start: iso(floorTo(span[0])), end: iso(ceilTo(span[1])), points: roomFor((span[1] - span[0]) / width) };
    const found = await api("/api/chart", words, signal);
    signal.throwIfAborted();
    const { rows, gap_count, gaps } = series.shown;
    take(series, { ...found, rows, gap_count, gaps }, span);
    await draw();
  } catch (error) {
    refuse(error, () => { $("error").hidden = true; refine(series); });
  }
}

const floorTo = (ms) => Math.floor(ms / 1000) * 1000;
const ceilTo = (ms) => Math.ceil(ms / 1000) * 1000;

function onKey(event) {
  if (!state.listens || event.ctrlKey || event.metaKey || event.altKey) return;
  const { view: [from, to], full } = state.series, width = to - from, middle = (from + to) / 2;
  const moves = {
    ArrowLeft: [from - width / 5, to - width / 5], ArrowRight: [from + width / 5, to + width / 5],
    "+": [middle - width / 4, middle + width / 4], "=": [middle - width / 4, middle + width / 4],
    "-": [middle - width, middle + width], Home: full, End: [full[1] - width, full[1]],
  };
  if (moves[event.key]) { event.preventDefault(); look(moves[event.key]); }
}

// -- live -----------------------------------------------------------------------------------------------------------

// Take events over a WebSocket; where there is none, as server-sent events. Of those a browser opens six at most, over all
// its tabs, and then asks for nothing else.
function follow(words, kinds, note, onAgain) {
  let close = () => {}, timer = 0, isOver = false, isPlain = false, wasOpen = false, wait = AGAIN_MS;
  const query = new URLSearchParams(words);
  const opened = () => { wait = AGAIN_MS; note(""); if (wasOpen && onAgain) onAgain(); wasOpen = true; };
  const hear = (kind, data) => { if (kind === "error") note(data.message || "a candle could not be fetched"); else kinds[kind]?.(data); };
  const lost = () => {
    if (isOver) return;
    note("connection lost; trying again");
    timer = setTimeout(open, wait);
    wait = Math.min(2 * wait, MOST_WAIT_MS);
  };
  function open() {
    if (isPlain) {
      const source = new EventSource(`/api/stream?${query}`);
      source.onopen = opened;
      for (const kind of Object.keys(kinds)) source.addEventListener(kind, (event) => hear(kind, JSON.parse(event.data)));
      source.onerror = (event) => {
        if (event.data) { hear("error", JSON.parse(event.data)); return; }
        source.close();
        isPlain = false;
        lost();
      };
      close = () => source.close();
    } else {
      const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/ws?${query}`);
      isPlain = true;
      socket.onopen = () => { isPlain = false; opened(); };
      socket.onmessage = (event) => { if (!isOver) { const one = JSON.parse(event.data); hear(one.event, one.data); } };
      socket.onclose = lost;
      close = () => socket.close();
    }
  }
  open();
  return () => { isOver = true; clearTimeout(timer); close(); };
}

// Follow the chart's series, or cease to, as the box says.
function switchLive() {
  const { series } = state;
  $("stream").textContent = "";
  if (!series) return;
  series.stopLive();
  series.stopLive = () => {};
  setPrice(series, null);
  if (!$("live").checked) return;
  if (!series.isOpen) {
    $("stream").textContent = "live: not of a range that has ended; choose one without an end";
    return;
  }
  const { provider, symbol, timeframe } = series.spec;
  const note = (text) => { $("stream").textContent = text ? `live: ${text}` : "live"; };
  note("connecting");
  const ends = [
    follow({ symbols: symbol, timeframe, provider }, { candle: (one) => onCandle(series, Date.parse(one.timestamp), one.close) }, note, () => catchUp(series)),
    follow({ symbols: symbol, provider }, { quote: (one) => setPrice(series, one.is_stale ? null : one.last_price) },
      (text) => { if (text) setPrice(series, null); }),
  ];
  const timer = setInterval(sayLate, 2_000, series);
  series.stopLive = () => { clearInterval(timer); ends.forEach((one) => one()); };
}

// Say that no candle comes, though one is due: a provider that does not answer is no quiet market.
function sayLate(series) {
  const due = closeMs(series.full[1], series.spec.timeframe);
  if (Date.now() < due + LATE_MS || $("stream").textContent.includes("lost")) return;
  $("stream").textContent = `live: no candle since ${moment(series.full[1], series.spec)}: none is traded, or the provider does not answer`;
}

const moment = (ms, { timeframe }) => (timeframe.endsWith("s") ? iso(ms).slice(0, 19).replace("T", " ") : minute(ms));

// Candles may have closed while the connection was lost.
async function catchUp(series) {
  try {
    const { t, c } = await api("/api/chart", { ...series.spec, limit: 1, points: 10 }, fresh(series, "newest"));
    if (t.length) onCandle(series, t[t.length - 1], c[c.length - 1]);
  } catch { /* the next candle tells */ }
}

function onCandle(series, opens, close) {
  const ends = closeMs(opens, series.spec.timeframe);
  if (series !== state.series || ends <= series.full[1]) return;
  $("stream").textContent = `live: the candle of ${moment(opens, series.spec)} closed at ${number(close)}`;
  const isAtEnd = series.view[1] >= series.full[1], moved = ends - series.full[1];
  if (moved > MOST_BEHIND * timeframeMs(series.spec.timeframe)) {
    series.stopLive();
    $("stream").textContent = `live: many candles behind; Show fetches them`;
    return;
  }
  series.full[1] = ends;
  if (isAtEnd) series.view = [Math.max(series.full[0], series.view[0] + moved), ends];
  clearTimeout(series.reloading);
  series.reloading = setTimeout(reload, 250, series);
}

// Take the series again as it has become. One at a time, however slow the service is.
async function reload(series) {
  if (series.isReloading) { series.isBehind = true; return; }
  series.isReloading = true;
  const full = [...series.full], signal = fresh(series, "reload");
  try {
    const words = { ...series.spec, start: iso(full[0]), end: iso(full[1]) };
    const found = await api("/api/chart", { ...words, points: roomFor((full[1] - full[0]) / (series.view[1] - series.view[0])) }, signal);
    signal.throwIfAborted();
    const fine = series.shown;
    take(series, found, full);
    describe(series, found, false);
    if (isRough(series)) { // candles of the right length stay until there are newer ones
      const { rows, gap_count, gaps } = found;
      take(series, { ...fine, rows, gap_count, gaps }, fine.span);
      await refine(series);
    } else {
      await draw();
    }
  } catch (error) {
    if (error.name !== "AbortError") $("stream").textContent = `live: ${error.message}`;
  } finally {
    series.isReloading = false;
  }
  if (series.isBehind) { series.isBehind = false; if (series === state.series) reload(series); }
}

// Draw the line of the price; none where it is not known, or old.
function setPrice(series, price) {
  if (price === series.price) return;
  series.price = price;
  if (!state.listens || series !== state.series || series.isPainting) return;
  series.isPainting = true;
  requestAnimationFrame(() => {
    series.isPainting = false;
    if (series === state.series) Plotly.relayout($("chart"), { shapes: shapes(shades()) });
  });
}

// -- quotes and cache -----------------------------------------------------------------------------------------------

async function showQuotes(event) {
  if (event) event.preventDefault();
  if (state.table) state.table.end();
  const table = state.table = { rows: new Map(), isLost: false, stop: () => {}, timer: 0 };
  table.end = () => { table.stop(); clearInterval(table.timer); };
  const names = [...new Set($("quote-symbols").value.split(",").map((one) => one.trim()).filter(Boolean))];
  if (!names.length) { $("quotes").replaceChildren(); $("quote-state").textContent = ""; return; }
  $("quote-state").textContent = "Asking…";
  try {
    const found = (await api("/api/quotes", { symbols: names.join(",") })).symbols;
    if (table !== state.table) return;
    const put = (key, quote) => { table.rows.set(key, { ...quote, came: performance.now() }); drawQuotes(table); };
    found.forEach((quote, at) => put(names[at] || quote.symbol, quote));
    $("quote-state").textContent = "";
    table.timer = setInterval(drawQuotes, 1_000, table);
    const good = names.filter((key) => !table.rows.get(key)?.error);
    if (!good.length) return;
    const keys = new Map(good.map((key) => [quoteKey(key, table.rows.get(key)), key]));
    const onQuote = (quote) => put(keys.get(`${quote.provider}:${quote.name}`) || keys.get(quote.name) || quote.name, quote);
    const note = (text) => { table.isLost = Boolean(text); $("quote-state").textContent = text; drawQuotes(table); };
    table.stop = follow({ symbols: good.join(",") }, { quote: onQuote }, note);
  } catch (error) {
    if (table === state.table) $("quote-state").textContent = sentence(error.message);
  }
}

const quoteKey = (key, quote) => `${quote.provider}:${key.includes(":") ? key.slice(key.indexOf(":") + 1) : key}`;

function drawQuotes(table) {
  if (table !== state.table) return;
  const heads = [["symbol"], ["provider"], ["last", 1], ["bid", 1], ["ask", 1], ["volume", 1], ["age", 1], ["state"]];
  const classes = [];
  fill($("quotes"), heads, [...table.rows].map(([key, one]) => {
    const age = one.age_s == null ? null : one.age_s + (performance.now() - one.came) / 1_000;
    const isStale = one.is_stale || table.isLost || age > MOST_AGE_S;
    classes.push(one.error ? "error" : isStale ? "stale" : "");
    return [key, one.provider || "–", number(one.last_price), number(one.bid_price), number(one.ask_price), number(one.volume),
      age == null ? "–" : `${age.toFixed(1)} s`, one.error || (isStale ? "stale" : "ok")];
  }));
  $("quotes").querySelectorAll("tbody tr").forEach((row, at) => { row.lastChild.className = classes[at]; });
}

async function showCache() {
  const turn = ++state.cacheTurn;
  let found;
  try {
    found = await api("/api/cache");
  } catch (error) {
    if (turn === state.cacheTurn) $("cache-size").textContent = sentence(error.message);
    return;
  }
  if (turn !== state.cacheTurn) return;
  const isLong = found.series.length > MOST_ROWS;
  $("cache-size").textContent = `${bytes(found.disk_bytes)} of ${bytes(found.disk_max_bytes)} on disk, `
    + `${bytes(found.memory_bytes)} in memory, ${number(found.series.length)} series${isLong ? `; the first ${MOST_ROWS} are listed` : ""}.`;
  const rows = found.series.slice(0, MOST_ROWS).map((one) => {
    const text = (value) => (value ? minute(Date.parse(value)) : "–");
    return [opener(one), one.provider, one.timeframe, one.kind, number(one.rows), text(one.first), text(one.last), bytes(one.bytes)];
  });
  fill($("cache"), [["symbol"], ["provider"], ["timeframe"], ["kind"], ["rows", 1], ["first (UTC)"], ["last (UTC)"], ["size", 1]], rows);
  if (!found.series.length) $("cache").replaceChildren(element("caption", "Nothing is stored yet: what you show is kept here."));
  await showCoverage();
}

// The chart shows candles, not marks, indexes or premiums: those are listed alone.
function opener(one) {
  if (one.kind !== "candles" || !providerOf(one.provider)) return one.symbol;
  const open = element("button", one.symbol, "cell");
  open.type = "button";
  open.title = `show ${one.symbol} ${one.timeframe} on ${one.provider}`;
  open.addEventListener("click", () => openSeries(one));
  return open;
}

function openSeries(one) {
  $("provider").value = one.provider;
  fillTimeframes(one.timeframe, true);
  $("symbol").value = one.symbol;
  $("range").value = "own";
  $("start").value = one.first || "";
  $("end").value = one.last ? iso(closeMs(Date.parse(one.last), one.timeframe)) : "";
  showOwn();
  show();
  $("form").scrollIntoView({ block: "start" });
}

async function showCoverage() {
  const { series } = state;
  if (!series) return;
  const [start, end] = series.full;
  const { provider, symbol, timeframe } = series.spec;
  let spans = [];
  try {
    if (end > start) spans = await api("/api/coverage", { provider, symbol, timeframe, start: iso(start), end: iso(end) }, fresh(series, "coverage"));
  } catch (error) {
    if (error.name !== "AbortError") $("coverage").replaceChildren(element("p", sentence(error.message)));
    return;
  }
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 1000 10");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  const kinds = new Map(), drawn = new Set();
  for (const span of spans) {
    const from = (1000 * (Date.parse(span.start) - start)) / (end - start), to = (1000 * (Date.parse(span.end) - start)) / (end - start);
    const box = document.createElementNS(space, "rect");
    const paint = colour(COLOURS[span.state] || "--down");
    kinds.set(span.state, paint);
    const place = `${span.state} ${Math.floor(2 * from)}`; // of spans on the same half a thousandth one is drawn
    if (to - from < 0.5 && drawn.has(place)) continue;
    drawn.add(place);
    const set = { x: Math.max(0, from), width: Math.max(0.5, Math.min(1000, to) - Math.max(0, from)), y: 0, height: 10, fill: paint };
    Object.entries(set).forEach(([name, value]) => box.setAttribute(name, value));
    const title = document.createElementNS(space, "title");
    title.textContent = `${String(span.state).replaceAll("_", " ")}: ${minute(Date.parse(span.start))} to ${minute(Date.parse(span.end))} UTC`;
    box.append(title);
    picture.append(box);
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
function kept() { try { return localStorage.getItem("theme"); } catch { return null; } } // it may be forbidden

function paint() {
  const theme = state.theme || kept() || (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
  if (state.listens) { draw(); showCoverage(); }
}

async function copy() {
  const box = $("python");
  let isDone = true;
  try {
    await navigator.clipboard.writeText(box.value);
  } catch { // not on https or this machine
    box.select();
    isDone = document.execCommand("copy");
  }
  $("copy").textContent = isDone ? "Copied" : "Selected: press Ctrl+C";
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
$("provider").addEventListener("change", () => { fillTimeframes($("timeframe").value); forgetSearch(); $("symbols").replaceChildren(); });
$("symbol").addEventListener("input", search);
$("range").addEventListener("change", showOwn);
$("other").addEventListener("change", () => { keepInAddress(); compare(); });
$("live").addEventListener("change", () => { keepInAddress(); switchLive(); });
$("fetch").addEventListener("click", () => state.answerPlan(true));
$("cancel").addEventListener("click", () => state.answerPlan(false));
$("quote-form").addEventListener("submit", showQuotes);
$("copy").addEventListener("click", copy);
$("chart").addEventListener("keydown", onKey);
$("theme").addEventListener("click", () => {
  state.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", state.theme); } catch { /* it lasts until the page is left */ }
  paint();
});
dark.addEventListener("change", paint);
begin();
