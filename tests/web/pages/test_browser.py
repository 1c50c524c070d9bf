"""The page in a real browser: readable, reachable by keyboard, live, and safe whatever the fleet calls itself."""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect

from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.model import ClusterState, Gpu, GpuRef, NodeInfo
from tests.support.chromium import browser, violations
from tests.web.conftest import Site, keeping

__all__ = ["browser"]

FIELD = "Serial, UUID, chassis, node or machine"
MISMATCHED_TABLES = """[...document.querySelectorAll("main table")].filter((table) => {
  const shown = (row) => [...row.cells].filter((cell) => cell.checkVisibility()).length;
  return table.tHead?.offsetWidth > 1 && table.tBodies[0].rows[0]?.checkVisibility()
    && shown(table.tHead.rows[0]) !== shown(table.tBodies[0].rows[0]);
}).map((table) => table.tHead.innerText)"""
THEN = "at=2025-11-24T16:05:30Z"
PAGES = {
    "fleet": "/",
    "cluster": "/clusters/prod-a",
    "cluster that is down": "/clusters/prod-b",
    "node with trays": "/clusters/prod-a/nodes/tray-1",
    "node with a conflict": "/clusters/prod-a/nodes/one",
    "GPU that moved": "/gpus/GPU-a2",
    "GPU in conflict": "/gpus/GPU-00000000-0000-4000-8000-000000000002",
    "hits": "/search?q=900",
    "no hit": "/search?q=nothing",
    "look-up of several": "/lookup?ids=900+none+n1+102",
    "scanner": "/scan",
    "changes": "/changes",
    "health": "/health",
    "problems": "/problems",
    "GPUs": "/gpus",
    "nodes": "/nodes?show=wrong",
    "models": "/models",
    "GPU that is worn": "/gpus/GPU-worn-1",
    "node with worn GPUs": "/clusters/prod-a/nodes/worn",
    "chassis": "/chassis/1822701878581",
    "clusters": "/clusters",
    "fleet then": f"/?{THEN}",
    "cluster then": f"/clusters/prod-a?{THEN}",
    "node then": f"/clusters/prod-a/nodes/tray-1?{THEN}",
    "GPU then": f"/gpus/GPU-a2?{THEN}",
    "chassis then": f"/chassis/1822701878581?{THEN}",
    "hits then": f"/search?q=900&{THEN}",
}


class Live:
    """A site that is served from another thread, so that the test's thread can drive the browser."""

    def __init__(self, site: Site, portal: BlockingPortal, url: str) -> None:
        self.site, self._portal, self.url = site, portal, url

    def read(self, *args: Any, **kwargs: Any) -> None:
        self._portal.call(functools.partial(self.site.read, *args, **kwargs))

    def wear(self) -> None:
        """Let a node have GPUs in every condition, and people mark two of them."""
        conditions = [Health(row_remap_pending=False), Health(row_remap_pending=True), Health(row_remap_failure=True)]
        for time, worn in ((1764000200.0, conditions[:1] * 3), (1764000210.0, conditions)):
            gpus = [Gpu(uuid=f"GPU-worn-{number}", serial=f"55{number}", health=one) for number, one in enumerate(worn)]
            self.read("prod-a", "worn", *gpus, capacity=4, time=time)
        self.read("prod-a", "worn", gpus[1], capacity=4, lost=(GpuRef("GPU-worn-0"),), time=1764000220.0)
        self.read("prod-a", "worn", *gpus, capacity=4, time=1764000230.0)
        told: dict[str, Any] = {"set_at": 1764000240.0, "set_by": "ann", "note": "ordered", "until": 1764900000.0}
        self.site.collector.marks.replace(
            [
                Mark(uuid="GPU-worn-1", kind=MarkKind.RMA, ticket="https://t.example/OPS-7", **told),
                Mark(uuid="GPU-worn-2", kind=MarkKind.WATCH, ticket="javascript:alert(1)", **told),
            ]
        )

    def cluster(self, name: str, state: ClusterState, message: str = "") -> None:
        self._portal.call(self.site.cluster, name, state, message)


@pytest.fixture
def live(site: Site, serving: Any, tmp_path: Path) -> Iterator[Live]:
    """A fleet with everything that a page can show, with a store."""
    cards = [
        Gpu(
            uuid=f"GPU-00000000-0000-4000-8000-00000000010{module}",
            serial=f"166100000000{(module + 1) // 2}",
            model="NVIDIA GB200",
            chassis="1822701878581",
            tray="3",
            slot="12",
            host="1",
            module=str(module),
            pci_bus_id=f"0000000{module}:01:00.0",
        )
        for module in (1, 2, 3, 4)
    ]
    twice = Gpu(uuid="GPU-00000000-0000-4000-8000-000000000002", serial="1652923034028", model="NVIDIA H100")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(keeping(site, tmp_path)),
        portal.wrap_async_context_manager(serving(site)) as client,
    ):
        live = Live(site, portal, str(client.base_url))
        live.read("prod-a", "tray-1", *cards, capacity=4)
        for time, node in enumerate(("one", "two", "one")):
            live.read("prod-a", node, twice, time=1764000001.0 + time, capacity=1)
        live.read("prod-a", "n1", Gpu(uuid="GPU-a2", serial="102"), time=1764000300.0)
        live.read("prod-a", "n2", time=1764000360.0)
        portal.call(lambda: site.publish(site.inventory.set_node("prod-a", NodeInfo(name="unread", capacity=8))))
        live.cluster("prod-c", ClusterState.STARTING)
        live.wear()
        yield live


@pytest.fixture
def opened(browser: Browser, live: Live) -> Iterator[Callable[..., Page]]:
    """Open pages of the site; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def dismiss(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(path: str, *, width: int = 1280, **options: Any) -> Page:
        context = browser.new_context(base_url=live.url, viewport={"width": width, "height": 800}, **options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", dismiss)
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


class TestReading:
    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (820, "dark"), (390, "light"), (390, "dark")])
    def test_every_page_is_accessible_and_fits(self, opened: Any, width: int, scheme: str) -> None:
        page = opened("/", width=width, color_scheme=scheme)
        for name, path in PAGES.items():
            page.goto(path)
            assert violations(page) == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.evaluate(MISMATCHED_TABLES) == [], name

    def test_dark_and_light_follow_the_system(self, opened: Any) -> None:
        background = "getComputedStyle(document.body).backgroundColor"
        assert opened("/", color_scheme="light").evaluate(background) == "rgb(255, 255, 255)"
        assert opened("/", color_scheme="dark").evaluate(background) == "rgb(19, 21, 25)"

    def test_the_timeline_is_also_a_list(self, opened: Any) -> None:
        page = opened("/gpus/GPU-a2")
        picture = page.get_by_role("img", name="Places of this GPU over time")
        expect(picture).to_be_visible()
        expect(picture).to_have_accessible_description(
            "n1 (prod-a) from 2025-11-24T16:05:00Z until now. "
            "n2 (prod-a) from 2025-11-24T16:00:00Z until 2025-11-24T16:05:00Z. The list below has the same data."
        )
        assert page.locator("svg .bar").count() == 2
        expect(page.locator(".life > li", has_text="from n2 (prod-a) to n1 (prod-a)")).to_be_visible()

    def test_relative_times_stay_correct(self, opened: Any) -> None:
        page = opened("/clusters/prod-b/nodes/n3")
        told = page.locator("main time .ago").first
        expect(told).to_have_text("10 minutes ago")
        page.evaluate("document.querySelector('main time').dateTime = '2025-11-22T16:10:00Z'")
        expect(told).to_have_text("2 days ago", timeout=30_000)

    def test_identifiers_of_a_gpu_can_be_copied(self, opened: Any) -> None:
        page = opened("/gpus/GPU-a2", permissions=["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy the serial").click()
        expect(page.get_by_role("status").filter(has_text="Copied the serial 102")).to_be_attached()
        assert page.evaluate("navigator.clipboard.readText()") == "102"
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")  # as without HTTPS
        page.get_by_role("button", name="Copy the UUID").click()
        expect(page.get_by_role("status").filter(has_text="Copied the UUID GPU-a2")).to_be_attached()
        assert page.evaluate("navigator.clipboard.readText()") == "GPU-a2"

    def test_every_page_can_show_local_times(self, opened: Any) -> None:
        page = opened("/gpus/GPU-a2", timezone_id="Asia/Kolkata")
        told = page.locator("main time").first
        expect(told).to_have_attribute("title", "2025-11-24T16:05:00Z\n2025-11-24 21:35:00 GMT+5:30")
        page.get_by_role("button", name="UTC", exact=True).click()
        expect(told).to_have_attribute("title", "2025-11-24 21:35:00 GMT+5:30\n2025-11-24T16:05:00Z")
        page.goto("/clusters/prod-a/nodes/n1")
        expect(page.get_by_role("button", name="Local time")).to_be_visible()
        expect(page.locator("#as-of")).to_have_text("2025-11-24 21:40:00 GMT+5:30")
        page.goto("/changes")
        expect(page.locator(".change time").first).to_have_text(re.compile(r"21:3\d:\d\d"))

    def test_only_the_repair_sheet_is_printed_in_light_colours(self, opened: Any) -> None:
        page = opened("/clusters/prod-a/nodes/worn", color_scheme="dark")
        sheet = page.get_by_role("region", name="Repair sheet")
        expect(sheet).to_be_hidden()
        page.emulate_media(media="print")
        expect(sheet).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_be_hidden()
        expect(page.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
        expect(sheet).to_contain_text("2 boards to pull")


class TestPhone:
    def test_touch_targets_are_large_and_nothing_is_cut(self, opened: Any) -> None:
        page = opened("/", width=390)
        for name, path in PAGES.items():
            page.goto(path)
            small = page.evaluate(
                """() => [...document.querySelectorAll("a, button, summary, select, input")]
                    .filter((one) => !one.closest("p:not(.links, .crumbs), .skip, .note") && one.checkVisibility())
                    .filter((one) => one.getBoundingClientRect().height < 24)
                    .map((one) => one.outerHTML.slice(0, 120))"""
            )
            assert small == [], name
            for summary in page.locator("summary").all():
                expect(summary).to_have_css("display", "list-item")  # with the mark that says that it opens
        fits = "(q) => { q.value = q.placeholder; return q.scrollWidth <= q.clientWidth }"
        assert page.get_by_label(FIELD).evaluate(fits)

    def test_filter_fields_have_equal_height(self, opened: Any) -> None:
        page = opened("/clusters/prod-a")
        boxes = [one.bounding_box() for one in page.locator(".toolbar :is(select, input, button):visible").all()]
        assert {(round(box["y"], 1), round(box["height"], 1)) for box in boxes} == {
            (round(boxes[0]["y"], 1), round(boxes[0]["height"], 1))
        }


class TestKeyboard:
    def test_slash_opens_the_search_and_enter_the_gpu(self, opened: Any, live: Live) -> None:
        page = opened("/changes")
        page.keyboard.press("/")
        expect(page.get_by_role("combobox", name=FIELD)).to_be_focused()
        page.keyboard.type("100")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{live.url}/gpus/GPU-a1")

    def test_a_slash_can_be_typed_in_the_search(self, opened: Any) -> None:
        page = opened("/")
        page.keyboard.press("/")
        page.keyboard.type("a/b")
        expect(page.get_by_label(FIELD)).to_have_value("a/b")

    def test_tab_skips_to_the_content_with_visible_focus(self, opened: Any) -> None:
        page = opened("/")
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        expect(skip).to_have_css("outline-style", "solid")
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()

    def test_a_filter_takes_effect_only_on_apply(self, opened: Any, live: Live) -> None:
        page = opened("/changes")
        what = page.get_by_label("What")
        what.focus()
        page.keyboard.press("ArrowDown")
        expect(what).to_have_value("replaced")
        page.keyboard.press("ArrowDown")
        expect(what).to_have_value("appeared")
        expect(what).to_be_focused()
        assert page.url == f"{live.url}/changes"
        page.get_by_role("button", name="Apply").press("Enter")
        page.wait_for_url(lambda url: "event=appeared" in url)


class TestKeys:
    def test_keyboard_shortcuts_reach_every_page_and_are_listed(self, opened: Any, live: Live) -> None:
        page = opened("/")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        expect(page.locator(".problems > li").first.get_by_role("link").first).to_be_focused()
        page.keyboard.press("Control+k")
        expect(page.get_by_label(FIELD)).to_be_focused()
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("g")
        page.keyboard.press("n")
        page.wait_for_url(f"{live.url}/nodes")


class TestLive:
    def test_a_change_appears_live_and_updates_the_counts(self, opened: Any, live: Live) -> None:
        page = opened("/")
        expect(page.get_by_role("button", name="Pause live updates")).to_have_text("Live", timeout=30_000)
        live.read("prod-a", "n7", Gpu(uuid="GPU-new", serial="777000"), capacity=1, time=1764000500.0)
        first = page.locator(".changes > li").first
        expect(first).to_contain_text("12 GPUs on 6 nodes", timeout=30_000)
        expect(page.get_by_role("heading", level=1)).to_have_text(
            "12 GPUs on 9 nodes across 3 clusters", timeout=30_000
        )

    def test_simultaneous_moves_from_several_nodes_all_appear(self, opened: Any, live: Live) -> None:
        page = opened("/changes")
        expect(page.get_by_role("button", name="Pause live updates")).to_have_text("Live", timeout=30_000)
        arrivals = [Gpu(uuid="GPU-b1", serial="900"), Gpu(uuid="GPU-a1", serial="100")]
        live.read("prod-a", "n7", *arrivals, time=1764000500.0)
        moved = page.locator(".changes > li", has_text="to n7 (prod-a)")
        expect(moved).to_have_count(2, timeout=30_000)

    def test_a_cluster_going_down_is_shown_without_a_reload(self, opened: Any, live: Live) -> None:
        page = opened("/")
        live.cluster("prod-a", ClusterState.UNAUTHORIZED, "the token has expired")
        expect(page.get_by_text("prod-a rejects the credentials")).to_be_visible(timeout=60_000)

    def test_the_footer_says_how_current_the_page_is(self, opened: Any, live: Live) -> None:
        page = opened("/")
        told = page.locator("footer time")
        expect(told).to_have_text("2025-11-24T16:10:00Z")
        live.site.collector.time += 60
        expect(told).to_have_text("2025-11-24T16:11:00Z", timeout=60_000)

    def test_it_can_be_paused_and_catches_up(self, opened: Any, live: Live) -> None:
        page = opened("/changes")
        expect(page.get_by_role("button", name="Pause live updates")).to_have_text("Live", timeout=30_000)
        page.get_by_role("button", name="Pause live updates").click()
        expect(page.get_by_role("button", name="Resume live updates")).to_have_text("Paused")
        live.read("prod-a", "n7", Gpu(uuid="GPU-a1", serial="100"), time=1764000500.0)
        page.get_by_role("button", name="Resume live updates").click()
        expect(page.locator(".changes > li").first).to_contain_text("to n7 (prod-a)", timeout=30_000)
        assert page.locator(".changes > li", has_text="to n7 (prod-a)").count() == 1


class TestWithoutScript:
    def test_everything_but_the_live_part_works(self, opened: Any, live: Live) -> None:
        page = opened("/", java_script_enabled=False)
        assert "vanished" in page.locator(".changes").inner_text()
        assert not page.get_by_role("button", name="live").is_visible()
        page.get_by_label(FIELD).fill("102")
        page.get_by_role("button", name="Find").click()
        page.wait_for_url(f"{live.url}/gpus/GPU-a2")
        page.get_by_role("main").get_by_role("link", name="prod-a").first.click()
        page.get_by_label("State").select_option("With missing GPUs")
        page.get_by_role("button", name="Apply").click()
        page.wait_for_url(lambda url: "show=missing" in url)
        expect(page.get_by_role("rowheader", name="n1")).to_be_visible()


class TestHostility:
    def test_no_name_can_script_the_page(self, opened: Any, live: Live) -> None:
        evil = (
            "\"'><img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>{{7*7}}</title>javascript:"
        )
        live.cluster(evil, ClusterState.UNREACHABLE, evil)
        names = ("uuid", "serial", "model", "chassis", "tray", "slot", "host", "module", "pci_bus_id")
        health = {"row_remap_failure": True, "recovery_action": evil, "fabric_state": evil, "inforom": evil}
        live.read(evil, evil, msgspec.convert(dict.fromkeys(names, evil) | {"health": health}, Gpu))
        mark = Mark(uuid=evil, kind=MarkKind.RMA, note=evil, ticket="javascript:alert(4)", set_at=1.0, set_by=evil)
        live.site.collector.marks.replace([mark])
        page = opened("/")
        expect(page.get_by_role("button", name="Pause live updates")).to_have_text("Live", timeout=30_000)
        live.read(evil, f"{evil}2", Gpu(uuid=f"{evil}2", serial=evil), time=1764000500.0)
        expect(page.locator(".changes > li").first).to_contain_text("first seen", timeout=30_000)
        page.get_by_role("rowheader", name=evil).get_by_role("link").first.click()
        page.get_by_role("rowheader", name=evil).get_by_role("link").first.click()
        expect(page.get_by_role("heading", name="Trays and slots")).to_be_visible()
        page.get_by_role("rowheader", name=evil).first.get_by_role("link").click()
        expect(page.get_by_role("heading", name="History")).to_be_visible()
        expect(page.get_by_role("main")).to_contain_text("javascript:alert(4)")
        assert page.locator("a[href^=javascript]").count() == 0
        for path in ("/search?q=", "/changes?text=", "/health?cluster=", "/gpus?q=", "/nodes?name="):
            page.goto(path + evil)
        assert page.evaluate("[...document.querySelectorAll('script')].every((script) => script.src)")

    def test_an_injected_script_would_not_run(self, browser: Browser, live: Live) -> None:
        page = browser.new_page(base_url=live.url)  # where the browser may complain, as it must
        page.goto("/")
        refused = page.evaluate(
            """() => new Promise((resolve) => {
                document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
                const script = document.createElement("script");
                script.textContent = "window.intruder = true";
                document.body.append(script);
            })"""
        )
        assert refused == "script-src-elem"
        assert page.evaluate("window.intruder") is None
        page.close()


CAMERA = """
  window.BarcodeDetector = class {
    static async getSupportedFormats() { return ["qr_code"]; }
    async detect(video) { return video.videoWidth ? [{ rawValue: "S/N: 102" }, ...window.others ?? []] : []; }
  };
  const canvas = document.createElement("canvas");
  setInterval(() => canvas.getContext("2d").fillRect(0, 0, Math.random() * 9, 9), 50);
  Object.defineProperty(navigator, "mediaDevices", { value: { getUserMedia: async () => canvas.captureStream(9) } });
"""


class TestFinding:
    def test_suggestions_are_chosen_by_keyboard(self, opened: Any) -> None:
        page = opened("/")
        field = page.get_by_role("combobox", name=FIELD)
        expect(field).to_have_attribute("aria-expanded", "false")
        field.press_sequentially("GPU-00000000-0000-4000-8000-00000000010")
        options = page.locator("#suggestions").get_by_role("option")
        expect(options).to_have_count(4)
        field.press("ArrowDown")
        field.press("ArrowDown")
        expect(options.nth(1)).to_have_attribute("aria-selected", "true")
        expect(field).to_have_attribute("aria-activedescendant", "suggestion-1")
        assert violations(page) == []
        field.press("Escape")
        expect(options).to_have_count(0)
        field.press("ArrowDown")
        expect(options).to_have_count(4)
        field.press("ArrowUp")
        field.press("Enter")
        page.wait_for_url("**/gpus/GPU-00000000-0000-4000-8000-000000000104")

    def test_a_pasted_column_keeps_its_serials_apart(self, opened: Any) -> None:
        page = opened("/")
        page.evaluate(
            """() => {
              const data = new DataTransfer();
              data.setData("text/plain", "102\\n900\\r\\nnone\\n");
              const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
              document.getElementById("q").dispatchEvent(event);
            }"""
        )
        expect(page.get_by_label(FIELD)).to_have_value("102, 900, none")
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_role("heading", name="2 ids found, 1 not found")).to_be_visible()

    def test_codes_read_by_the_camera_are_looked_up(self, browser: Browser, live: Live) -> None:
        context = browser.new_context(base_url=live.url)
        context.set_default_timeout(30_000)
        context.add_init_script(CAMERA)
        page = context.new_page()
        page.goto("/scan")
        page.get_by_label("Several").check()
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#ids")).to_have_value("S/N: 102\n")
        page.evaluate("window.others = [{ rawValue: '692-2G520-0205-001' }]")  # the part number, on the same label
        page.get_by_label("Several").uncheck()
        page.wait_for_url("**/gpus/GPU-a2")
        context.close()

    def test_a_browser_without_code_detection_says_so(self, opened: Any) -> None:
        page = opened("/scan")
        expect(page.locator("[data-scan-state]")).to_contain_text("This browser cannot read codes;")
        expect(page.get_by_role("button", name="Start the camera")).to_be_hidden()
