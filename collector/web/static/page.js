// What a script adds to the page: the "/" key, times that stay current, and the changes as they happen.
"use strict";

const TIMES_INTERVAL = 5000; // milliseconds between two updates of the times
const RECONNECT_DELAY = 30000; // milliseconds after a stream was refused
const CHECK_INTERVAL = 10000; // milliseconds: a cluster that goes down changes no GPU, and so sends nothing
const REFRESH_DELAY = 5000; // milliseconds: the counts follow the changes, but no more often than this

const search = document.getElementById("q");

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});

// The same texts as the server's (views/humanize.py), so that nothing jumps.
const UNITS = [[86400, 129600, "day"], [3600, 5400, "hour"], [60, 90, "minute"], [1, 0, "second"]];

function ago(seconds) {
  if (seconds <= -60) return `in ${duration(-seconds)}`;
  return seconds < 1.5 ? "just now" : `${duration(seconds)} ago`;
}

function duration(seconds) {
  const [size, , unit] = UNITS.find(([, least]) => seconds >= least);
  const count = Math.floor(seconds / size + 0.5);
  return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
}

// How far this machine's clock is ahead of the server's, in milliseconds.
const skew = Date.now() - Date.parse(document.querySelector("footer time").dateTime);

function setAsOf(moment) {
  const footerTime = document.querySelector("footer time");
  footerTime.textContent = footerTime.dateTime = moment.toISOString().replace(/\.\d+Z$/, "Z");
}

function updateTimes() {
  for (const span of document.querySelectorAll("time .ago")) {
    const text = ago((Date.now() - skew - Date.parse(span.parentElement.dateTime)) / 1000);
    if (span.textContent !== text) span.textContent = text;
  }
}
setInterval(updateTimes, TIMES_INTERVAL);

const live = document.querySelector("[data-live]");
if (live && "EventSource" in window) streamChanges(live);

function streamChanges(section) {
  const list = section.querySelector("[data-live-list]");
  const state = section.querySelector("[data-live-state]");
  const pause = section.querySelector("[data-live-pause]");
  const most = Number(list.dataset.most);
  let after = section.dataset.after;
  let source = null;
  let paused = false;

  function open() {
    if (source || paused || document.hidden) return;
    source = new EventSource(`${section.dataset.live}${section.dataset.live.includes("?") ? "&" : "?"}after=${encodeURIComponent(after)}`);
    source.onopen = () => showState("live");
    source.onmessage = (message) => {
      after = message.lastEventId;
      add(message.data);
    };
    source.onerror = () => {
      showState("not connected");
      if (source?.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(open, RECONNECT_DELAY); // refused: the browser does not retry by itself
      }
    };
  }

  function close() {
    source?.close();
    source = null;
  }

  function showState(text) {
    if (state.textContent !== text) state.textContent = text;
    state.className = `live ${text === "live" ? "good" : "idle"}`;
  }

  function add(html) {
    const item = new DOMParser().parseFromString(html, "text/html").querySelector("li.change");
    if (!item) return;
    for (const other of list.children) if (other.dataset.key === item.dataset.key) return;
    section.querySelector("[data-live-empty]").hidden = true;
    if (item.dataset.counting && "liveFold" in list.dataset) {
      for (const other of list.querySelectorAll("li.change")) if (other.dataset.counting === item.dataset.counting) other.remove();
    }
    item.classList.add("new");
    list.prepend(document.adoptNode(item));
    while (list.children.length > most && !list.lastElementChild.contains(document.activeElement)) {
      list.lastElementChild.remove();
    }
    refreshSoon();
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    if (paused) {
      close();
      showState("paused");
    } else {
      open();
    }
  });
  // A browser has few connections to one server; hidden tabs must not hold them.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  setInterval(() => { if (!paused) refreshSoon(); }, CHECK_INTERVAL);
  // A page that is only streamed is as current as the stream.
  if (!document.querySelector("[data-refresh]")) {
    setInterval(() => { if (source?.readyState === EventSource.OPEN) setAsOf(new Date(Date.now() - skew)); }, TIMES_INTERVAL);
  }
  open();
}

let waiting = null;

function refreshSoon() {
  if (!waiting && document.querySelector("[data-refresh]")) waiting = setTimeout(refresh, REFRESH_DELAY);
}

async function refresh() {
  waiting = null;
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    setAsOf(new Date(fresh.querySelector("footer time").dateTime));
    for (const part of document.querySelectorAll("[data-refresh]")) {
      const other = fresh.querySelector(`[data-refresh="${part.dataset.refresh}"]`);
      const inUse = part.contains(document.activeElement) || getSelection().containsNode(part, true) && !getSelection().isCollapsed;
      if (other && !inUse) part.replaceWith(document.adoptNode(other));
    }
  } catch {
    // The state of the stream shows that there is no connection.
  }
}
