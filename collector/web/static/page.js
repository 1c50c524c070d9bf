// What a script adds to the page: the "/" key, times that stay true, and the changes as they happen.
"use strict";

const search = document.getElementById("q");

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});

// The same words as the server's, so that nothing jumps.
const UNITS = [[86400, 129600, "day"], [3600, 5400, "hour"], [60, 90, "minute"], [1, 0, "second"]];

function ago(seconds) {
  if (seconds < 1.5) return "just now";
  const [size, , unit] = UNITS.find(([, least]) => seconds >= least);
  const count = Math.floor(seconds / size + 0.5);
  return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"} ago`;
}

// Counted from the server's clock, which need not be this machine's.
const skew = Date.now() - Date.parse(document.querySelector("footer time").dateTime);

function asOf(moment) {
  const told = document.querySelector("footer time");
  told.textContent = told.dateTime = moment.toISOString().replace(/\.\d+Z$/, "Z");
}

function retell() {
  for (const span of document.querySelectorAll("time .ago")) {
    const words = ago((Date.now() - skew - Date.parse(span.parentElement.dateTime)) / 1000);
    if (span.textContent !== words) span.textContent = words;
  }
}
setInterval(retell, 5000);

const live = document.querySelector("[data-live]");
if (live && "EventSource" in window) follow(live);

function follow(section) {
  const list = section.querySelector("[data-live-list]");
  const state = section.querySelector("[data-live-state]");
  const pause = section.querySelector("[data-live-pause]");
  const most = Number(list.dataset.most);
  let after = section.dataset.after;
  let source = null;
  let paused = false;

  function open() {
    if (source || paused || document.hidden) return;
    source = new EventSource(`/changes/stream?after=${encodeURIComponent(after)}`);
    source.onopen = () => say("live");
    source.onmessage = (message) => {
      after = message.lastEventId;
      add(message.data);
    };
    source.onerror = () => {
      say("not connected");
      if (source?.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(open, 30000); // refused: the browser does not try again by itself
      }
    };
  }

  function close() {
    source?.close();
    source = null;
  }

  function say(words) {
    if (state.textContent !== words) state.textContent = words;
    state.className = `live ${words === "live" ? "good" : "idle"}`;
  }

  function add(html) {
    const item = new DOMParser().parseFromString(html, "text/html").querySelector("li.change");
    if (!item) return;
    for (const other of list.children) if (other.dataset.key === item.dataset.key) return;
    section.querySelector("[data-live-empty]").hidden = true;
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
      say("paused");
    } else {
      open();
    }
  });
  // A browser has few connections to one server; tabs that nobody sees must not hold them.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  // A cluster that goes down changes no GPU, so the counts are looked at now and then as well.
  setInterval(() => { if (!paused) refreshSoon(); }, 10000);
  // What is only streamed is as current as the stream.
  if (!document.querySelector("[data-refresh]")) {
    setInterval(() => { if (source?.readyState === EventSource.OPEN) asOf(new Date(Date.now() - skew)); }, 5000);
  }
  open();
}

// What is counted on the page follows what happens, but not more often than every few seconds.
const REFRESH = 5000;
let waiting = null;

function refreshSoon() {
  if (!waiting && document.querySelector("[data-refresh]")) waiting = setTimeout(refresh, REFRESH);
}

async function refresh() {
  waiting = null;
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    asOf(new Date(fresh.querySelector("footer time").dateTime));
    for (const part of document.querySelectorAll("[data-refresh]")) {
      const other = fresh.querySelector(`[data-refresh="${part.dataset.refresh}"]`);
      const inUse = part.contains(document.activeElement) || getSelection().containsNode(part, true) && !getSelection().isCollapsed;
      if (other && !inUse) part.replaceWith(document.adoptNode(other));
    }
  } catch {
    // The stream says that there is no connection.
  }
}
