// Script features of every page: keys, current times and live content.
// Other scripts use delegated events or "gpuid:refreshed"; what they add to <main> survives only inside [data-keep].
// Rows with a data-key keep their identity; new ones flash in a list with data-flash.

const TIMES_INTERVAL = 5000; // milliseconds between two updates of the times
const RECONNECT_DELAY = 30000; // milliseconds after a stream was rejected
const REFRESH_INTERVAL = 3000; // milliseconds: the page refreshes no more often than this
const SEQUENCE_TIME = 1500; // milliseconds within which the second key of a sequence must follow

const search = document.getElementById("q");
const sheet = document.getElementById("keys");
document.documentElement.classList.add("js");

// Keys

let leader = -Infinity; // when "g" was pressed

document.addEventListener("keydown", (event) => {
  const ctrl = event.ctrlKey || event.metaKey;
  if (ctrl && !event.altKey && event.key.toLowerCase() === "k") return take(event, focusSearch);
  if (ctrl || event.altKey || sheet.open || event.target.closest?.("input, select, textarea, [contenteditable]")) return;
  const after = event.timeStamp - leader < SEQUENCE_TIME;
  leader = -Infinity;
  if (after) {
    const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
    if (link) take(event, () => link.click());
  } else if (event.key === "g") leader = event.timeStamp;
  else if (event.key === "/") take(event, focusSearch);
  else if (event.key === "?") take(event, () => sheet.showModal());
  else if (event.key === "p") button?.click();
  else if (event.key === "j") take(event, () => step(1));
  else if (event.key === "k") take(event, () => step(-1));
  else if (event.key === "[") document.querySelector("main [rel=prev]")?.click();
  else if (event.key === "]") document.querySelector("main [rel=next]")?.click();
});

function take(event, action) {
  event.preventDefault();
  action();
}

function focusSearch() {
  search.focus();
  search.select();
}

// Move the focus to the first link of the next or previous row of a list.
function step(by) {
  const links = [...document.querySelectorAll("main tbody tr, main .problems > li, main .change")]
    .map((row) => row.querySelector("a")).filter((link) => link?.checkVisibility());
  const row = document.activeElement.closest("tr, li");
  const at = links.findIndex((link) => row?.contains(link));
  links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
}

const keys = document.querySelector("[data-keys]");
keys.hidden = false;
keys.addEventListener("click", () => sheet.showModal());
sheet.addEventListener("click", (event) => { if (event.target === sheet) sheet.close(); });

// Times, worded like the server's (views/humanize.py), so that nothing jumps.

const UNITS = [[86400, 129600, "day"], [3600, 5400, "hour"], [60, 90, "minute"], [1, 0, "second"]];
const asOf = document.getElementById("as-of");
let skew = Date.now() - Date.parse(asOf.dateTime); // milliseconds by which this machine's clock is ahead

function ago(seconds) {
  if (seconds <= -60) return `in ${duration(-seconds)}`;
  return seconds < 1.5 ? "just now" : `${duration(seconds)} ago`;
}

function duration(seconds) {
  const [size, , unit] = UNITS.find(([, least]) => seconds >= least);
  const count = Math.floor(seconds / size + 0.5);
  return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
}

function updateTimes() {
  for (const span of document.querySelectorAll("time .ago")) {
    const text = ago((Date.now() - skew - Date.parse(span.parentElement.dateTime)) / 1000);
    if (span.textContent !== text) span.textContent = text;
  }
}
setInterval(updateTimes, TIMES_INTERVAL);

// Live updates: when the server reports a change, the page fetches itself and updates what differs.

const button = document.querySelector("[data-live]");
const edited = new WeakSet(); // forms that the user has started to fill in
let source = null;
let paused = false;
let waiting = null;
let refreshed = 0;

if (button && "EventSource" in window) {
  document.addEventListener("input", (event) => edited.add(event.target.form));
  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    if (paused) close();
    else open();
    if (paused) showState("Paused", "idle");
    else refreshSoon();
  });
  // Browsers limit the connections per server; hidden tabs must not use them up.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  open();
}

function open() {
  if (source || paused || document.hidden) return;
  source = new EventSource(button.dataset.live);
  source.onopen = () => showState("Live", "good");
  source.onmessage = refreshSoon;
  source.onerror = () => {
    showState("Offline", "bad");
    if (source?.readyState === EventSource.CLOSED) {
      source = null;
      setTimeout(open, RECONNECT_DELAY); // rejected: the browser does not retry by itself
    }
  };
}

function close() {
  source?.close();
  source = null;
}

function showState(text, kind) {
  const state = button.firstElementChild;
  state.className = `dot ${kind}`;
  if (state.textContent !== text) state.textContent = text;
  button.title = paused ? "Resume live updates" : "Pause live updates";
}

function refreshSoon() {
  waiting ??= setTimeout(refresh, Math.max(0, refreshed + REFRESH_INTERVAL - Date.now()));
}

async function refresh() {
  try {
    const selection = getSelection();
    const selecting = !selection.isCollapsed && document.getElementById("main").contains(selection.anchorNode);
    if (document.hidden || paused || selecting) return;
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (paused) return;
    const moment = fresh.getElementById("as-of");
    skew = Date.now() - Date.parse(moment.dateTime);
    morph(asOf, moment);
    morph(document.getElementById("main"), fresh.getElementById("main"));
    document.title = fresh.title;
    document.dispatchEvent(new Event("gpuid:refreshed"));
  } catch {
    // The stream's state already shows that there is no connection.
  } finally {
    waiting = null;
    refreshed = Date.now();
  }
}

// Update a node to match a new one, touching only what differs, so that focus, scroll and open details stay.
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.hasAttribute("data-keep") || edited.has(old) || old.contains(document.activeElement) && old.matches("form")) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.matches("details"))) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !(name === "open" && old.matches("details"))) old.setAttribute(name, value);
  }
  const known = new Map([...old.childNodes].filter(keyOf).map((child) => [keyOf(child), child]));
  const wanted = new Set([...fresh.childNodes].map(keyOf));
  let next = old.firstChild;
  const drop = () => { const gone = next; next = next.nextSibling; gone.remove(); };
  for (const child of fresh.childNodes) {
    const key = keyOf(child);
    const match = key ? known.get(key) : null;
    while (next && next !== match && (match || keyOf(next)) && !(keyOf(next) && wanted.has(keyOf(next)))) drop();
    if (match) {
      if (match === next) next = next.nextSibling;
      else old.insertBefore(match, next);
      morph(match, child);
    } else if (!key && next && !keyOf(next) && next.nodeName === child.nodeName) {
      const same = next;
      next = next.nextSibling;
      morph(same, child);
    } else {
      const added = document.importNode(child, true);
      if (key && "flash" in old.dataset) added.classList.add("new");
      old.insertBefore(added, next);
    }
  }
  while (next) drop();
}

// A child's identity among its siblings, so that rows that come and go are not confused.
function keyOf(node) {
  return node.dataset?.key || node.id || "";
}
