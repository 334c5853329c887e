"""Looks at pages with Chromium, as tests/ui/browser.rs asks in one JSON argument. Prints one JSON object for each thing that
it saw.

`shots`: pictures of pages, each compared with an approved picture. `watch`: a page of `raisin ui` during a build."""

import base64
import io
import json
import shutil
import sys
import time
from pathlib import Path

import pypdfium2
from PIL import Image, ImageChops
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

asked = json.loads(sys.argv[1])

# The approved pictures have one font, whatever the machine has. What depends on the time is invisible.
FIXED = """
*{font-family:'DejaVu Sans'!important;transition:none!important;caret-color:transparent!important}
code,pre,textarea{font-family:'DejaVu Sans Mono'!important}
.status .facts,#part-runs tbody,.card .facts a{visibility:hidden}
"""
# Two pixels differ if one of their colours differs by more than this. The edges of letters differ a little between
# versions of the browser.
LEAST_DIFFERENCE = 48
COLOURS = 160


def started():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def until(what, came, patience=60):
    began = time.monotonic()
    while not came():
        if time.monotonic() - began > patience:
            raise TimeoutError(f"it does not happen that {what}")
        time.sleep(0.05)


def device(browser, width, height, scheme):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(browser, shot):
    """The picture of a page, and the width that its content takes."""
    mode = shot["mode"]
    device(browser, 400 if mode == "narrow" else 1180, 900, "dark" if mode in ("dark", "print") else "light")
    browser.get(shot["url"])
    if ready := shot.get("ready"):
        until(f"{ready} is on the page", lambda: browser.find_elements(By.CSS_SELECTOR, ready))
    browser.execute_script("const s = document.createElement('style'); s.textContent = arguments[0]; document.head.append(s)", FIXED)
    taken = browser.execute_script("return document.documentElement.scrollWidth")
    if mode == "print":
        # A person who prefers dark pages prints on white paper.
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
        pdf = pypdfium2.PdfDocument(base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", size)["data"]))
        pages = [pdf[number].render(scale=1.0).to_pil() for number in range(min(len(pdf), 2))]
        whole = Image.new("RGB", (sum(page.width for page in pages), pages[0].height), "white")
        left = 0
        for page in pages:
            whole.paste(page, (left, 0))
            left += page.width
        return whole, taken
    # In a usual window, no table needs to be moved sideways.
    device(browser, 1100, 900, "light")
    tables = "return [...document.querySelectorAll('.scroll:has(table)')].filter(it => it.scrollWidth > it.clientWidth).map(it => it.textContent.slice(0, 80))"
    shot["scrolls"] = browser.execute_script(tables)
    device(browser, 400 if mode == "narrow" else 1180, shot["height"], "dark" if mode == "dark" else "light")
    time.sleep(0.3)
    png = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), taken


def compared(shot, image):
    """The share of pixels that differ from the approved picture."""
    approved, made = Path(shot["approved"]), Path(shot["made"])
    made.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(made, optimize=True)
    if asked.get("bless"):
        approved.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, approved)
    if not approved.is_file():
        return 1.0
    known, now = Image.open(approved).convert("RGB"), Image.open(made).convert("RGB")
    if known.size != now.size:
        return 1.0
    bands = ImageChops.difference(known, now).split()
    largest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    differs = largest.point(lambda value: 255 if value > LEAST_DIFFERENCE else 0)
    differs.save(made.with_name(made.stem + "-differs.png"), optimize=True)
    return differs.histogram()[255] / (now.width * now.height)


def said(browser):
    """Errors of the page: of its script, of the policy for its content. A wrong query is answered with the status 400."""
    messages = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [message for message in messages if "/sql?" not in message]


def shots(browser):
    for shot in asked["shots"]:
        image, taken = picture(browser, shot)
        width = 400 if shot["mode"] == "narrow" else 1180
        seen = {"name": shot["name"], "differs": compared(shot, image), "fits": taken <= width, "scrolls": shot.get("scrolls", [])}
        print(json.dumps({**seen, "bytes": Path(shot["made"]).stat().st_size, "errors": said(browser)}), flush=True)


def watch(browser):
    """Opens the page during a build that waits for the file `go`, and looks at it until the build has ended."""
    device(browser, 1180, 900, "light")
    browser.get(asked["url"])

    def text(selector):
        return browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    until("the stage runs on the page", lambda: "running 75 %" in text("#part-graph"))
    seen = {"while": text("#part-build"), "title": browser.title}
    browser.execute_script("document.querySelector('#all-stages').open = true")
    box = browser.find_element(By.CSS_SELECTOR, "#query")
    box.clear()
    box.send_keys("select stage, kind from raisin.actions where stage in ('base', 'pool') order by stage", Keys.CONTROL, Keys.ENTER)
    until("the query is answered", lambda: browser.find_elements(By.CSS_SELECTOR, "#answer td"), 20)
    seen["cells"] = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#answer td")]
    seen["meaning"] = browser.find_element(By.CSS_SELECTOR, "#answer th").get_attribute("title")
    box.clear()
    box.send_keys("select nothing from raisin.actions", Keys.CONTROL, Keys.ENTER)
    until("the error is shown", lambda: browser.find_elements(By.CSS_SELECTOR, "#answer .error"))
    seen["error"] = text("#answer .error")
    Path(asked["go"]).touch()
    until("the end of the build is on the page", lambda: text("#part-build").startswith("Built"))
    seen["states"] = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#part-stages .state")]
    seen["query"] = box.get_attribute("value")
    mark = browser.find_element(By.CSS_SELECTOR, "#part-curves circle.hit title")
    seen["value"] = mark.get_attribute("textContent")
    until("the report is linked", lambda: browser.find_elements(By.CSS_SELECTOR, "#part-reports a"))
    seen["errors"] = said(browser)
    browser.find_element(By.CSS_SELECTOR, "#part-reports a").click()
    until("the report is open", lambda: "/report/" in browser.current_url)
    seen["report"] = text("h1")
    seen["heading"] = browser.find_element(By.CSS_SELECTOR, "th[title]").get_attribute("title")
    print(json.dumps(seen), flush=True)


browser = started()
try:
    {"shots": shots, "watch": watch}[asked["do"]](browser)
finally:
    browser.quit()
