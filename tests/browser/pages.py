"""Page object of the web page: type, press, hold, read and listen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

TIMEOUT = 60
"""Timeout of a wait, in seconds; a busy machine is slow."""
LISTENER = """
    window.loudest = 0;
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) => window.violations.push(event.violatedDirective));
    const listen = () => {
        const level = Number(document.documentElement?.style.getPropertyValue('--loudness'));
        window.loudest = Math.max(window.loudest, level);
        requestAnimationFrame(listen);
    };
    requestAnimationFrame(listen);
"""
"""Records the loudest playback, and violations of the content policy."""

STATES = """
    const state = document.getElementById('live-state');
    window.states = [];
    new MutationObserver(() => window.states.push(state.textContent)).observe(state, {childList: true});
"""


class Page:
    """A browser with the page open."""

    def __init__(self, chromium: str, driver: str, switches: tuple[str, ...]) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for switch in switches:
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LISTENER})
        # The page polls the server, and tests stop servers.
        refused = r"/v1/realtime\S* failed: Error in connection establishment: net::ERR_CONNECTION_REFUSED"
        self._allowed: list[str] = [r"/(ready|jobs\S*) - Failed to load resource: net::ERR_", refused]

    def open(self, url: str, ready: bool = True) -> None:
        self.driver.get(url)
        if ready:
            self.wait_for("#status[data-state=ready]")
            self.wait(lambda: self.run("return document.getElementById('messages').childElementCount > 0"
                                       " || !document.getElementById('welcome').hidden"))  # fmt: skip

    def quit(self) -> None:
        self.driver.quit()

    # Reading

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def wait(self, condition: Callable[[], Any], what: str = "") -> Any:
        # The page may replace an element between its search and its use.
        absent = (NoSuchElementException, StaleElementReferenceException)
        waiting = WebDriverWait(self.driver, TIMEOUT, poll_frequency=0.05, ignored_exceptions=absent)
        return waiting.until(lambda _: condition(), what)

    def wait_for(self, selector: str, count: int = 1) -> WebElement:
        """The last of at least so many elements."""
        return self.wait(lambda: (found := self.all(selector))[count - 1 :] and found[-1], f"no {count} {selector}")

    def remember_states(self) -> None:
        """Has the page remember the states of a live conversation, some of which end before a driver sees them."""
        self.run(STATES)

    def states(self) -> list[str]:
        """The texts of the states since `remember_states`."""
        return list(self.run("return window.states"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def devtools(self, command: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, values)

    # Actions

    def ask(self, question: str) -> None:
        self.one("#prompt").send_keys(question, Keys.ENTER)

    def press(self, selector: str) -> None:
        self.one(selector).click()

    def key(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def active(self) -> WebElement:
        """The element with the focus."""
        return self.driver.switch_to.active_element

    def recorded(self, seconds: int) -> None:
        """Waits until so many seconds are recorded."""
        self.wait(lambda: clock(self.run("return document.getElementById('clock').textContent")) >= seconds)

    def hold_microphone(self, seconds: int) -> None:
        hold = ActionChains(self.driver)
        hold.click_and_hold(self.one("#mic")).perform()
        self.recorded(seconds)
        ActionChains(self.driver).release().perform()

    def answered(self, count: int = 1) -> WebElement:
        """The last answer, once so many are complete."""
        return self.wait_for(".answer:has(.timeline)", count)

    def loudest(self) -> float:
        """The loudest playback since the last call, 0 to 1."""
        return float(self.run("const level = window.loudest; window.loudest = 0; return level;"))

    # Checks

    def allow_messages(self, *patterns: str) -> None:
        """Allows console messages in this test: the browser reports every rejected request there."""
        self._allowed += patterns

    def unexpected_messages(self) -> list[str]:
        """Console messages and policy violations that are not allowed."""
        log = self.driver.get_log("browser")
        messages = [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]
        wrong = [message for message in messages if not any(re.search(pattern, message) for pattern in self._allowed)]
        return [*wrong, *(f"content policy: {directive}" for directive in self.run("return window.violations || []"))]


def clock(text: str) -> int:
    minutes, _, seconds = text.partition(":")
    return 60 * int(minutes) + int(seconds)
