// Buttons to copy and print, and times in the reader's time zone: on hover, or everywhere if chosen.

const CLOCK_KEY = "gpuid.clock"; // in localStorage: "local", or nothing for UTC
const DONE_TIME = 1500; // milliseconds for which a button shows that it copied

// Announce automatic changes to screen readers.
const said = document.createElement("p");
said.className = "unseen";
said.setAttribute("role", "status");
document.body.append(said);

function say(text) {
  said.textContent = "";
  requestAnimationFrame(() => { said.textContent = text; }); // so that the same text is announced again
}

// Copying

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  const { copy, what } = button.dataset;
  if (await copied(copy)) {
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), DONE_TIME);
    say(`Copied the ${what} ${copy}`);
  } else {
    prompt(`This browser does not allow pages to copy. The ${what}:`, copy);
  }
});

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedByCommand(text); // without HTTPS there is no clipboard
  }
}

function copiedByCommand(text) {
  const focused = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    field.remove();
    focused?.focus();
  }
}

// Printing

document.addEventListener("click", (event) => { if (event.target.closest?.("[data-print]")) print(); });

// Times

let local = stored() === "local";

function stored() {
  try {
    return localStorage.getItem(CLOCK_KEY);
  } catch {
    return null; // storage may be blocked; then the choice applies to this page
  }
}

function store() {
  try {
    if (local) localStorage.setItem(CLOCK_KEY, "local");
    else localStorage.removeItem(CLOCK_KEY);
  } catch {
    // As above.
  }
}

const format = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" }); // as in ISO 8601
const zone = new Intl.DateTimeFormat("en", { timeZoneName: "short" });

function inZone(moment) {
  return `${format.format(moment)} ${zone.formatToParts(moment).find((part) => part.type === "timeZoneName").value}`;
}

function inUtc(moment) {
  return moment.toISOString().replace(/\.\d+Z$/, "Z");
}

function showTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const [here, utc] = [inZone(moment), inUtc(moment)];
    set(time, "title", local ? utc : here);
    if (time.classList.contains("clock")) { // below a day's heading, which is in UTC
      const day = here.startsWith(utc.slice(0, 10));
      const text = !local ? utc.slice(11, 19) : day ? here.slice(11, 19) : here.slice(5, 16);
      if (time.textContent !== text) time.textContent = text;
      set(time, "title", local ? `${here}\n${utc}` : `${utc}\n${here}`);
      continue;
    }
    const written = time.querySelector(".utc") ?? (time.id === "as-of" ? time : null);
    const text = local ? here : utc;
    if (written && written.textContent !== text) written.textContent = text;
    else if (!written && time.querySelector(".ago")) set(time, "title", local ? `${here}\n${utc}` : `${utc}\n${here}`);
  }
}

function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const clock = document.createElement("button");
clock.type = "button";
clock.className = "plain clock";
clock.addEventListener("click", () => {
  local = !local;
  store();
  showClock();
  say(local ? "Times are local" : "Times are UTC");
});

function showClock() {
  clock.textContent = local ? "Local time" : "UTC";
  clock.title = local ? "Show times in UTC" : "Show times in this browser's time zone";
  showTimes();
}

document.getElementById("as-of")?.after(" ", clock);
document.addEventListener("gpuid:refreshed", showTimes);
addEventListener("storage", (event) => {
  if (event.key !== CLOCK_KEY) return;
  local = event.newValue === "local";
  showClock();
});
showClock();
