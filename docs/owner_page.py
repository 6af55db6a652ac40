"""The picture of docs/owner_page.md: the owner's page of a made-up clinic in Chromium. Run: python docs/owner_page.py."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browsers import Watched, chromium
from tests.owner_houses import House, furnish, served

PICTURE = Path(__file__).with_name("owner_page.png")
COLOURS = 128


def main() -> None:
    """Draw the page of a request that differs from the last one that was approved."""
    os.environ["LOGNAME"] = "mira.keller"  # who decides, where nobody types another name
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder))
        ids = furnish(house)
        with served(house.home) as opened, chromium() as browser:
            size = {"width": 1280, "height": 900}
            window = Watched(browser, urlsplit(opened.origin).netloc, viewport=size)
            window.page.goto(opened.site.link())
            window.page.wait_for_url(opened.origin + "/")
            window.page.goto(f"{opened.origin}/requests/{ids['changed']}")
            drawn = window.page.screenshot()
            window.context.close()
        house.close()
    with Image.open(io.BytesIO(drawn)) as picture:
        picture.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
