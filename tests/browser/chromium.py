"""A report in a real browser: what a script meets in it, and that nothing is on the console or asked of a network."""

import html
import json
import re
import shutil
import subprocess

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVE = """
<script>
addEventListener("load", () => {
  const told = {};
  %s
  const asked = performance.getEntriesByType("resource").map(one => one.name);
  told.requests = asked.filter(name => !name.startsWith("data:"));
  const result = { id: "told", textContent: JSON.stringify(told) };
  document.body.replaceChildren(Object.assign(document.createElement("pre"), result));
});
</script>
"""


def browse(page, *options):
    """Open a file at 1280 pixels; gives what the browser printed, after making sure that its console is empty."""
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
            "--window-size=1280,1600", "--virtual-time-budget=5000", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def drive(page, script, folder):
    """What `script` leaves in `told` when it runs in a page that has loaded; the page asks no network for anything."""
    driven = folder / "driven.html"
    text = page.read_text(encoding="utf-8")
    driven.write_text(text.replace("</body>", f"{DRIVE % script}</body>"), encoding="utf-8")
    found = re.search(r'<pre id="told">(.*?)</pre>', browse(driven, "--dump-dom"), re.DOTALL)
    assert found is not None
    told = json.loads(html.unescape(found.group(1)))
    assert told["requests"] == []
    return told
