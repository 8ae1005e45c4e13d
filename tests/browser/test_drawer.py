"""The drawer of stored conversations in a real browser: search, open, rename, export, delete and undo."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.by import By

from browser.conftest import ENTER, ESCAPE


def made(server: str, *prompts: str) -> str:
    """A conversation with these questions; returns its id."""
    conversation: dict[str, str] = {}
    for prompt in prompts:
        answer = httpx.post(f"{server}/completion", json={"prompt": prompt, **conversation}, timeout=60)
        conversation = {"conversation": answer.json()["conversation"]}
    return conversation["conversation"]


def stored(server: str) -> dict[str, str]:
    found = httpx.get(f"{server}/conversations", params={"limit": 200}).json()["conversations"]
    return {each["id"]: each["title"] for each in found}


def opened(page: Any) -> None:
    page.press("#open-conversations")
    page.wait_for("#drawer[open]")
    page.wait(lambda: page.all("#conversations li"), "the drawer shows no conversation")


def row(page: Any, conversation: str) -> Any:
    return page.wait_for(f"#conversations [data-id='{conversation}']")


def choose(page: Any, conversation: str, words: str) -> None:
    row(page, conversation).find_element(By.TAG_NAME, "summary").click()
    for choice in row(page, conversation).find_elements(By.CSS_SELECTOR, ".conversation-choices button"):
        if choice.text == words:
            choice.click()
            return
    pytest.fail(f"there is no choice {words!r}")


def test_a_conversation_is_found_opened_and_continued(page: Any, server: str) -> None:
    walrus = made(server, "Where is the walrus?", "And the carpenter?")
    made(server, "What is the time?")
    opened(page)
    page.one("#conversation-search").send_keys("CARPENTER")
    page.wait(lambda: [each.get_attribute("data-id") for each in page.all("#conversations li")] == [walrus])
    assert "2 questions" in row(page, walrus).text
    row(page, walrus).find_element(By.CSS_SELECTOR, ".conversation-open").click()
    page.wait(lambda: len(page.all(".question")) == 2)
    assert not page.all("#drawer[open]")
    page.ask("And the oysters?")
    page.answered()
    messages = httpx.get(f"{server}/conversations/{walrus}").json()["messages"]
    assert [each["text"] for each in messages if each["role"] == "user"][-1] == "And the oysters?"


def test_a_search_without_a_result_says_so(page: Any, server: str) -> None:
    made(server, "Where is the walrus?")
    opened(page)
    page.one("#conversation-search").send_keys("no such text anywhere")
    page.wait(lambda: page.text("#drawer .none") == "No conversation has this text.")


def test_a_title_is_changed_and_escape_keeps_it(page: Any, server: str) -> None:
    conversation = made(server, "Where is the walrus now?")
    opened(page)
    choose(page, conversation, "Rename")
    page.key("By the sea", ENTER)
    page.wait(lambda: stored(server)[conversation] == "By the sea")
    page.wait(lambda: "By the sea" in row(page, conversation).text)
    choose(page, conversation, "Rename")
    page.key("never", ESCAPE)
    page.wait(lambda: "By the sea" in row(page, conversation).text)
    assert page.all("#drawer[open]")
    assert stored(server)[conversation] == "By the sea"


def test_a_deletion_is_undone_or_happens(page: Any, server: str) -> None:
    page.ask("a secret")
    page.answered()
    conversation = page.run("return localStorage.getItem('chatapi.conversation')")
    opened(page)
    choose(page, conversation, "Delete")
    page.wait(lambda: not page.all(f"#conversations [data-id='{conversation}']"))
    page.wait(lambda: not page.all(".message"))
    page.press(".conversations-undo button")
    row(page, conversation)
    page.wait(lambda: page.text(".question .text") == "a secret")
    assert conversation in stored(server)
    choose(page, conversation, "Delete")
    page.driver.refresh()
    page.wait(lambda: conversation not in stored(server), "leaving the page does not delete")


@pytest.mark.parametrize(("words", "ending"), [("Save as Markdown", "md"), ("Save as JSON", "json")])
def test_a_conversation_is_saved(page: Any, server: str, tmp_path: Path, words: str, ending: str) -> None:
    conversation = made(server, "Where is / the walrus?")
    page.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    opened(page)
    choose(page, conversation, words)
    file = tmp_path / f"Where is the walrus.{ending}"
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, list(tmp_path.iterdir())
        time.sleep(0.05)
    text = file.read_text()
    if ending == "json":
        assert json.loads(text)["messages"][0] == {"role": "user", "text": "Where is / the walrus?"}
    else:
        assert text.startswith("# Where is / the walrus?\n\n**You**\n\nWhere is / the walrus?\n\n**Answer**\n\n")


def test_the_drawer_works_from_the_keyboard(page: Any, server: str) -> None:
    made(server, "Where is the walrus?")
    page.run("document.getElementById('open-conversations').focus()")
    page.key(ENTER)
    page.wait_for("#drawer[open]")
    page.wait(lambda: page.all("#conversations li"))
    page.key(ESCAPE)
    page.wait(lambda: not page.all("#drawer[open]"))
    assert page.active().get_attribute("id") == "open-conversations"
