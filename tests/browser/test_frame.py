"""The frame of the page: routes, navigation, languages, keyboard, both colour schemes, and what is loaded when."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from browser.conftest import ENTER
from chatapi.interfaces.http.page import FOLDER

Browse = Callable[..., Any]
VIEWS = {"talk": "Conversation", "transcribe": "Transcribe", "captions": "Captions", "streams": "Streams"}
TAB = "\ue004"
CONTRAST = 4.5
"""Least contrast of text (WCAG 2.2, 1.4.3)."""
FIRST_BYTES = 150_000
"""Most bytes of the first view, compressed."""
WIDE = """
    return [...document.querySelectorAll('body, body *')].filter((each) => each.checkVisibility()
        && !each.closest('.unseen, svg, .meter, .skip') && each.getBoundingClientRect().right > innerWidth + 1)
        .map((each) => each.outerHTML.slice(0, 90));
"""
KEYS = """
    const [files, done] = arguments;
    const keys = (part, before) => Object.entries(part).flatMap(([name, value]) =>
        typeof value === 'object' && !Array.isArray(value) ? keys(value, `${before}${name}.`) : [`${before}${name}`]);
    Promise.all(files.map((file) => import(new URL(`page/texts/${file}`, location.href))))
        .then((all) => done(Object.fromEntries(all.map((each, index) => [files[index], keys(each.default, '')]))));
"""
COLOURS = """
    const back = (each) => {
        for (; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (!/^rgba.*, 0\\)$|transparent/.test(colour)) return colour;
        }
    };
    return [...document.querySelectorAll(arguments[0])]
        .filter((each) => each.checkVisibility() && !each.closest('.unseen'))
        .filter((each) => [...each.childNodes].some(({nodeType, data}) => nodeType === 3 && data.trim()))
        .map((each) => [each.outerHTML.slice(0, 80), getComputedStyle(each).color, back(each)]);
"""


def opened(page: Any, path: str) -> None:
    """Waits until a view is shown."""
    page.wait(lambda: page.text("#view-title") == VIEWS[path] and page.one(f"#view-{path}").is_displayed())


def luminance(colour: str) -> float:
    channels = [float(each) / 255 for each in re.findall(r"[\d.]+", colour)[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_views_have_addresses_titles_and_the_back_button(page: Any) -> None:
    opened(page, "talk")
    assert page.driver.title == "Conversation · chatapi"
    page.press('[data-path="transcribe"]')
    opened(page, "transcribe")
    assert page.driver.current_url.endswith("#/transcribe") and page.driver.title == "Transcribe · chatapi"
    assert page.run("return document.activeElement.id") == "view-title"
    assert [each.text for each in page.all("nav [aria-current=page]")] == ["Transcribe"]
    page.driver.back()
    opened(page, "talk")
    assert [each.text for each in page.all("nav [aria-current=page]")] == ["Talk"]
    page.driver.forward()
    opened(page, "transcribe")
    page.driver.refresh()
    opened(page, "transcribe")
    assert not page.all("#view-talk:not([hidden])")


def test_unknown_address_shows_the_first_view(browse: Browse, server: str) -> None:
    page = browse(f"{server}/#/nothing/%E0%A4%A", ready=False)
    opened(page, "talk")


def test_conversation_stays_while_another_view_is_shown(page: Any) -> None:
    page.ask("one question")
    page.answered()
    page.press('[data-path="transcribe"]')
    opened(page, "transcribe")
    page.driver.back()
    opened(page, "talk")
    assert page.text(".question .text") == "one question" and page.one("#new").is_displayed()


def test_a_view_is_loaded_when_it_is_opened_and_the_first_one_is_small(page: Any, server: str) -> None:
    opened(page, "talk")
    found = page.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    files = {each for each in found if "/page/" in each}
    assert any(each.endswith("talk-view.js") for each in files)
    assert not any("/transcribe/" in each or each.endswith("de.js") for each in files)
    sizes = [len(zlib.compress(httpx.get(each).content)) for each in (f"{server}/", *files)]
    assert sum(sizes) < FIRST_BYTES
    page.press('[data-path="transcribe"]')
    opened(page, "transcribe")
    found = page.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    assert any(each.endswith("/transcribe/view.js") for each in found)


def test_language_is_that_of_the_browser_until_another_one_is_selected(browse: Browse, server: str) -> None:
    page = browse("about:blank", ready=False)
    agent = page.run("return navigator.userAgent")
    page.devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="de-AT,en")
    page.open(server)
    assert page.run("return document.documentElement.lang") == "de"
    views = ["Sprechen", "Transkribieren", "Untertitel", "Streams", "Stimmen", "Befehle"]
    assert [each.text for each in page.all("nav a")] == views
    assert page.text("#status") == "Bereit"
    page.press("#open-options")
    page.run("const field = document.getElementById('page-language'); field.value = 'en';"
             "field.dispatchEvent(new Event('change'))")  # fmt: skip
    page.wait(lambda: page.run("return document.documentElement.lang") == "en" and page.text("nav a") == "Talk")
    page.driver.refresh()
    page.wait(lambda: page.text("nav a") == "Talk")


def test_skip_link_and_landmarks_serve_keyboard_and_screen_reader(page: Any) -> None:
    page.run("document.activeElement.blur()")
    page.key(TAB)
    assert page.run("return document.activeElement.id") == "skip"
    address = page.driver.current_url
    page.key(ENTER)
    assert page.run("return document.activeElement.id") == "views" and page.driver.current_url == address
    for landmark in ("header", "nav[aria-label]", "main", "h1"):
        assert len(page.all(f"body > {landmark}, .bar > {landmark}")) == 1, landmark


@pytest.mark.parametrize("path", VIEWS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_320_pixels_with_names_and_contrast(
    browse: Browse, server: str, path: str, scheme: str
) -> None:
    page = browse("about:blank", ready=False)
    page.devtools("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=1, mobile=True)
    page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(f"{server}/#/{path}", ready=False)
    opened(page, path)
    page.wait_for("#status[data-state=ready]")
    for summary in page.all(".options:not([open]) summary"):
        summary.click()
    assert page.run(WIDE) == []
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    for control in page.all("button, a, input:not([type=file]), select, textarea, summary"):
        if control.is_displayed() and control.get_attribute("id") != "skip":
            assert control.accessible_name, control.get_attribute("outerHTML")
            if control.tag_name in ("button", "a", "summary"):
                assert min(control.size.values()) >= 44 or control.get_attribute("class") == "brand"
    pale = [
        each
        for each in page.run(COLOURS, "p, strong, span, a, label, h1, h2, button")
        if contrast(*each[1:]) < CONTRAST
    ]
    assert pale == []


def test_dictionaries_have_the_same_keys_and_every_key_that_is_used(page: Any) -> None:
    found = page.driver.execute_async_script(KEYS, [each.name for each in (FOLDER / "texts").glob("*.js")])
    assert len(found) > 1
    english = set(found["en.js"])
    assert all(set(each) == english for each in found.values())
    source = "\n".join(each.read_text() for each in [*FOLDER.rglob("*.js"), FOLDER / "index.html"])
    used = set(re.findall(r"\bt\('([\w.]+)'", source)) | set(re.findall(r'data-text="([\w.]+)"', source))
    for pairs in re.findall(r'data-texts="([^"]+)"', source):
        used |= {pair.partition("=")[2] for pair in pairs.split() if "." in pair}
    assert len(used) > 50 and used <= english, used - english
