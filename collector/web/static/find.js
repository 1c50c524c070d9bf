// Search: suggestions in the search field, lists pasted into it, and labels read by the camera.

const DEBOUNCE = 150; // milliseconds without a key before suggestions are requested
const MIN_LENGTH = 2; // characters; shorter texts mean everything
const MAX_ADDRESS = 1500; // characters of a search that still fit into a URL
const SCAN_INTERVAL = 200; // milliseconds between two looks at the camera image
const MAX_FAILURES = 15; // consecutive failures after which code reading is abandoned
const FORMATS = ["qr_code", "code_128", "data_matrix", "code_39"]; // ours, and those on board labels

const field = document.getElementById("q");
const form = field?.form;
if (form?.dataset.suggest) {
  suggest(field, form);
  takeLists(field, form);
  offerScanner(form);
}
const scanner = document.querySelector("[data-scan]");
if (scanner) prepareScanner(scanner);

// A combobox following the ARIA Authoring Practices: the field keeps the focus, arrow keys choose an option.
function suggest(input, form) {
  const list = document.createElement("ul");
  list.id = "suggestions";
  list.className = "suggestions";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Suggestions");
  list.hidden = true;
  const status = document.createElement("span");
  status.className = "unseen";
  status.setAttribute("role", "status");
  form.append(list, status);
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", list.id);
  input.setAttribute("aria-expanded", "false");

  let timer = 0;
  let asked = null; // the pending request
  let chosen = -1;

  function close() {
    clearTimeout(timer);
    asked?.abort();
    asked = null;
    list.hidden = true;
    list.replaceChildren();
    chosen = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    status.textContent = "";
  }

  async function ask() {
    const text = input.value.trim();
    if (text.length < MIN_LENGTH || text.length > 200 || document.activeElement !== input) return close();
    asked?.abort();
    const request = (asked = new AbortController());
    try {
      const answer = await fetch(`${form.dataset.suggest}?q=${encodeURIComponent(text)}`, { signal: request.signal });
      if (!answer.ok) return close();
      const { suggestions } = await answer.json();
      if (asked === request) show(suggestions);
    } catch {
      // Another key was pressed, or there is no connection: the field works without suggestions.
    }
  }

  function show(found) {
    chosen = -1;
    input.removeAttribute("aria-activedescendant");
    list.replaceChildren(...found.map(option));
    list.hidden = found.length === 0;
    input.setAttribute("aria-expanded", String(found.length > 0));
    status.textContent = found.length ? `${found.length} suggestion${found.length === 1 ? "" : "s"}` : "";
  }

  // Use the page's time wherever the target supports it.
  function kept(url) {
    const at = form.elements.at?.value;
    const listed = url.includes("?") && !url.includes("/search?"); // lists show only the present
    return at && !listed ? `${url}${url.includes("?") ? "&" : "?"}at=${encodeURIComponent(at)}` : url;
  }

  function option(one, index) {
    const item = document.createElement("li");
    item.id = `suggestion-${index}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    item.dataset.url = kept(one.url);
    for (const [name, text] of [["id", one.text], ["faint", one.detail]]) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      item.append(part, " ");
    }
    return item;
  }

  function choose(index) {
    const items = [...list.children];
    if (!items.length) return;
    chosen = index === -2 ? items.length - 1 : index >= items.length ? -1 : index;
    items.forEach((item, at) => item.setAttribute("aria-selected", String(at === chosen)));
    if (chosen < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", items[chosen].id);
    items[chosen].scrollIntoView({ block: "nearest" });
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, DEBOUNCE);
  });
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) ask();
      else choose(event.key === "ArrowDown" ? chosen + 1 : chosen - 1 === -2 ? -2 : chosen - 1);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    } else if (event.key === "Enter" && chosen >= 0) {
      event.preventDefault();
      location.assign(list.children[chosen].dataset.url);
    }
  });
  // Before the field loses the focus, which closes the list.
  list.addEventListener("mousedown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const item = event.target.closest("[role=option]");
    if (item) location.assign(item.dataset.url);
  });
  input.addEventListener("blur", close);
  form.addEventListener("submit", close);
}

// A one-line field drops line breaks, which would join the serials of a column.
function takeLists(input, form) {
  input.addEventListener("paste", (event) => {
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (!/[\r\n\t]/.test(text.trim())) return;
    event.preventDefault();
    const ids = text.split(/[\r\n\t]+/).map((id) => id.trim()).filter(Boolean).join(", ");
    if (ids.length > MAX_ADDRESS) return post(text);
    input.setRangeText(ids, input.selectionStart, input.selectionEnd, "end");
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  form.addEventListener("submit", (event) => {
    if (input.value.length <= MAX_ADDRESS) return;
    event.preventDefault();
    post(input.value);
  });

  function post(text) {
    const large = document.createElement("form");
    large.method = "post";
    large.action = form.dataset.lookup;
    large.hidden = true;
    const ids = document.createElement("textarea");
    ids.name = "ids";
    ids.value = text;
    large.append(ids);
    document.body.append(large);
    large.submit();
  }
}

// On a phone whose browser reads codes, every page links to the scanner.
function offerScanner(form) {
  if (!isSecureContext || !("BarcodeDetector" in window)) return;
  const link = document.createElement("a");
  link.className = "button scan-link";
  link.href = form.dataset.scanner;
  link.textContent = "Scan";
  form.append(link);
}

async function prepareScanner(section) {
  const find = (name) => section.querySelector(`[data-scan-${name}]`);
  const [state, start, video, several, ids] = ["state", "start", "video", "several", "ids"].map(find);
  const why = await unable();
  if (why) {
    state.textContent = why;
    return;
  }
  const known = await BarcodeDetector.getSupportedFormats();
  const detector = new BarcodeDetector({ formats: FORMATS.filter((format) => known.includes(format)) });
  let stream = null;
  let timer = 0;
  let last = "";
  let starting = false;
  let failures = 0;
  state.textContent = "Hold a label or a gpuid code in front of the camera.";
  find("controls").hidden = false;

  start.addEventListener("click", () => (stream ? stop() : begin()));
  addEventListener("pagehide", stop);
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); });

  async function begin() {
    if (starting) return;
    starting = true;
    failures = 0;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: { ideal: "environment" } }, audio: false });
    } catch (error) {
      state.textContent = error.name === "NotFoundError" ? "This device has no camera."
        : error.name === "NotAllowedError" ? "The browser blocks the camera on this page: allow it in the site settings."
          : `The camera cannot be used: ${error.message}`;
      return;
    } finally {
      starting = false;
    }
    video.srcObject = stream;
    video.hidden = false;
    start.textContent = "Stop";
    state.textContent = "Looking for a code…";
    await video.play();
    timer = setTimeout(look, SCAN_INTERVAL);
  }

  function stop() {
    clearTimeout(timer);
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    video.srcObject = null;
    video.hidden = true;
    start.textContent = "Start the camera";
  }

  async function look() {
    if (!stream) return;
    try {
      const texts = (await detector.detect(video)).map(({ rawValue }) => rawValue.trim()).filter(Boolean);
      failures = 0;
      if (texts.length) await found([...new Set(texts)]);
    } catch {
      // No image yet, or a reader that does not work at all.
      if (++failures < MAX_FAILURES) return void (timer = setTimeout(look, SCAN_INTERVAL));
      stop();
      state.textContent = "The browser's code reader does not work on this device. Type or paste the text on the label.";
    }
    if (stream) timer = setTimeout(look, SCAN_INTERVAL);
  }

  async function found(texts) {
    if (several.checked) return texts.forEach(collect);
    stop();
    const text = texts.length === 1 ? texts[0] : await theOnlyGpu(texts);
    if (text) return location.assign(`${section.dataset.scan}?q=${encodeURIComponent(text)}`);
    ids.value = texts.join("\n");
    ids.form.requestSubmit();
  }

  // Labels have a part number next to the serial: return the text that names exactly one GPU, if any.
  async function theOnlyGpu(texts) {
    const body = JSON.stringify({ ids: texts });
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(section.dataset.lookup, { method: "POST", headers, body });
    if (!answer.ok) return "";
    const { results } = await answer.json();
    const named = results.filter(({ kind }) => kind === "serial" || kind === "uuid");
    const gpus = new Set(named.flatMap(({ matches }) => matches.map(({ uuid }) => uuid)));
    return gpus.size === 1 ? named[0].id : "";
  }

  function collect(text) {
    if (text === last || ids.value.split("\n").includes(text)) return;
    last = text;
    ids.value += `${ids.value && !ids.value.endsWith("\n") ? "\n" : ""}${text}\n`;
    state.textContent = `Read ${text}`;
    navigator.vibrate?.(50);
  }
}

// Return why codes cannot be read here, as a sentence; empty if they can.
async function unable() {
  if (!isSecureContext) return "The camera can only be used over HTTPS: open this page with an https:// URL.";
  if (!("BarcodeDetector" in window)) return "This browser cannot read codes; Chrome on Android and macOS can. Your phone's camera app opens gpuid's QR codes, and you can type or paste a serial below.";
  if (!navigator.mediaDevices?.getUserMedia) return "This browser has no access to a camera.";
  const known = await BarcodeDetector.getSupportedFormats().catch(() => []);
  return FORMATS.some((format) => known.includes(format)) ? "" : "This browser cannot read any of the codes used on labels.";
}
