"""The HTML viewer: what the file holds, and what a browser shows of it, against asdkit's own rasteriser."""

import base64
import hashlib
import json
import math
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from support.browser import CHROMIUM, needs_browser
from support.splat_tools import splats

from asdkit.formats.html import write_html
from asdkit.formats.splats import Splats, activate
from asdkit.rendering.cameras import Views, orbit
from asdkit.rendering.rasterize import rasterize

EVIL = """</title></script><script>document.title = 1</script>"'><img src=x onerror=alert(1)> {{scene}} \\1 &amp; 鴨"""


def bright(count: int = 300, degree: int = 0) -> Splats:
    """Random Gaussians with colours beyond [0,1]."""
    gaussians = splats(count, degree, seed=degree)
    gaussians.sh[:, 0] *= 6
    gaussians.sh[:, 1:] *= 2.4
    return gaussians


class Page(HTMLParser):
    """The elements of a page with their attributes and texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[list[str]] = []
        self.open: list[list[str]] = [[]]
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self.texts.append([])
        if tag != "meta":
            self.open.append(self.texts[-1])

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].append(data)

    def all(self, tag: str) -> list[str]:
        return ["".join(text) for (name, _), text in zip(self.elements, self.texts, strict=True) if name == tag]


def test_the_page_asks_for_nothing_and_its_policy_allows_nothing_else(tmp_path: Path) -> None:
    write_html(tmp_path / "a.html", bright(), "a red duck")
    page = Page(tmp_path / "a.html")
    for tag, attributes in page.elements:
        assert not any(name in ("src", "href", "style") or name.startswith("on") for name in attributes), tag
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    data, script = page.all("script")
    (style,) = page.all("style")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    allowed = {"script-src": f"'sha256-{hashes[0]}'", "style-src": f"'sha256-{hashes[1]}'"}
    allowed |= dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    assert dict(directive.split(" ", 1) for directive in policy.split("; ")) == allowed
    rest = (tmp_path / "a.html").read_text("utf-8").replace(data, "").replace(policy, "")  # base64 may hold slashes
    assert not re.search(r"\w+:/|//\S|url\(|@import|import\(|fetch|XMLHttp|WebSocket|Worker", rest)
    assert "a red duck" in page.all("title") and "300 Gaussians" in "".join(page.all("b") + page.all("p"))


def test_a_title_is_text_whatever_it_says(tmp_path: Path) -> None:
    write_html(tmp_path / "plain.html", bright(2), "duck")
    write_html(tmp_path / "evil.html", bright(2), EVIL)
    plain, evil = Page(tmp_path / "plain.html"), Page(tmp_path / "evil.html")
    assert evil.elements == plain.elements
    assert evil.all("title") == [EVIL] and evil.all("b")[0].startswith(EVIL)
    assert evil.all("script") == plain.all("script")


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_the_data_are_the_gaussians(tmp_path: Path, coefficients: int) -> None:
    original = bright(50, math.isqrt(coefficients) - 1)
    original.quats[:4] = [[-1, 0, 0, 0], [0, 0, -3, 0], [0, 1, 1, 1], [-1e-3, 1, 0, 0]]
    original.opacity_logits[:2] = [-200, 200]
    write_html(tmp_path / "a.html", original, "", (0.25, 0.5, 1.0), -70.0, 40.0, 2.5, 60.0)
    scene = json.loads(Page(tmp_path / "a.html").all("script")[0])
    data = base64.b64decode(scene.pop("data"))
    camera = {"azimuth": -70.0, "elevation": 40.0, "distance": 2.5, "fov": 60.0}
    assert scene == camera | {"background": [0.25, 0.5, 1.0], "degree": {1: 0, 4: 1, 9: 2, 16: 3}[coefficients]}
    padding = {1: 0, 4: 14, 9: 0, 16: 6}[coefficients]
    record = [("xyz", "<f4", 3), ("scales", "<f2", 3), ("rotation", "<f2", 3), ("opacity", "<f2")]
    record += [("sh", "<f2", (coefficients, 3)), ("padding", "u1", padding)]
    table = np.frombuffer(data, np.dtype(record))
    np.testing.assert_array_equal(table["xyz"], original.means)
    np.testing.assert_allclose(table["scales"], original.log_scales, rtol=2**-11)
    np.testing.assert_allclose(table["opacity"], torch.from_numpy(original.opacity_logits).sigmoid(), 2**-11, 1e-7)
    np.testing.assert_allclose(table["sh"], original.sh, rtol=2**-11, atol=1e-7)
    turned = Rotation.from_quat(original.quats[:, [1, 2, 3, 0]]).inv() * Rotation.from_mrp(table["rotation"])
    assert turned.magnitude().max() < 0.002


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    for field, value, words in (
        ("means", math.nan, "not a finite number"), ("quats", 0, "a rotation that is zero"),
        ("sh", 66000, "too large for float16"), ("log_scales", -1e5, "too large for float16"),
    ):  # fmt: skip
        broken = bright(5)
        getattr(broken, field)[3] = value
        with pytest.raises(ValueError, match=rf"a\.html was not written.*{words}"):
            write_html(path, broken, "")
    assert list(tmp_path.iterdir()) == []


def chromium(folder: Path, address: str, *arguments: str, gl: bool = True) -> str:
    """Opens a page in a fresh profile, with WebGL by software or without it; returns what is printed."""
    software = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    webgl = software if gl else ["--disable-3d-apis"]
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [CHROMIUM, "--headless", "--no-sandbox", f"--user-data-dir={folder / 'profile'}", *webgl, *quiet]
    command += ["--virtual-time-budget=4000", *arguments, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout


def screenshot(folder: Path, address: str, width: int, height: int, *arguments: str) -> np.ndarray:
    """Colours in [0,1] of what the window shows [H,W,3]."""
    path = folder / "screenshot.png"
    chromium(folder, address, f"--window-size={width},{height}", f"--screenshot={path}", *arguments)
    return np.asarray(Image.open(path).convert("RGB")) / 255


def camera(azimuth: float, elevation: float, distance: float, fov: float, height: int, width: int) -> Views:
    angles = (torch.tensor([math.radians(angle)]) for angle in (azimuth, elevation))
    return orbit(*angles, torch.tensor([distance]), math.radians(fov), height, width)


def hard(shown: Splats, views: Views) -> Splats:
    """Adds what tests each rule, in the axes of the camera."""
    right, down, forward, eye = views.c2w[0, :3].numpy().T
    means, scales, logits = shown.means, shown.log_scales, shown.opacity_logits
    means[0], scales[0], logits[0] = eye - 0.3 * forward, math.log(0.2), 2  # behind the camera
    means[1], scales[1], logits[1] = eye + 0.009 * forward, math.log(0.1), 2  # nearer than is drawn
    means[2], scales[2], logits[2] = eye + 0.4 * forward - 0.5 * down, math.log(0.25), 2  # where the slope is clamped
    logits[3:6] = [-5.6, -5.5, -5.0]  # about 1/255
    means[6], scales[6], logits[6] = eye + forward - 0.2 * down + 0.2 * right, math.log(0.03), -3  # seen to its edge
    shown.sh[6, 0] = 80
    scales[10:2000] = np.log(np.geomspace(0.0005, 0.02, 1990))[:, None]  # less than a pixel, most of them
    logits[10:2000] = 4
    return shown


@needs_browser
@pytest.mark.parametrize(
    ("degree", "azimuth", "elevation", "distance", "fov", "width", "height", "scale"),
    [(1, 130, -30, 1.9, 60, 420, 600, 1), (2, 250, 65, 2.0, 50, 600, 400, 1), (3, -60, 5, 1.7, 60, 320, 300, 2)],
)
@pytest.mark.slow
def test_a_browser_shows_what_the_rasterizer_draws(
    tmp_path: Path, degree: int, azimuth: float, elevation: float, distance: float, fov: float, width: int, height: int,
    scale: int,
) -> None:  # fmt: skip
    height, width = scale * height, scale * width
    narrow = 2 * math.degrees(math.atan(math.tan(math.radians(fov / 2)) * height / min(height, width)))
    views = camera(azimuth, elevation, distance, narrow, height, width)
    shown = hard(bright(2300, degree), views)
    background = (0.1, 0.6, 0.9)
    address = f"file://{tmp_path}/a.html"
    if degree % 2:  # the camera from the file, or from the address
        write_html(tmp_path / "a.html", shown, "", background, azimuth, elevation, distance, fov)
    else:
        write_html(tmp_path / "a.html", shown, "", background, fov_deg=fov)
        address += f"#azimuth={azimuth}&elevation={elevation}&distance={distance}"
    seen = screenshot(tmp_path, address, width // scale, height // scale, f"--force-device-scale-factor={scale}")
    raster = rasterize(*activate(shown.tensors()), views, torch.tensor(background), sh_degree=degree)
    drawn = raster.image[0].clamp(0, 1).numpy()
    rows = height * 3 // 4  # below is the caption
    psnr = -10 * math.log10(((seen - drawn)[:rows] ** 2).mean())
    assert seen.shape == drawn.shape and drawn.std() > 0.15
    assert psnr > 57  # 57.5 to 58.3; rounding to 8 bits alone allows 59


RED, BLUE = np.array([0.9, 0.1, 0]), np.array([0.1, 0.2, 30])


def requests(log: dict) -> list[str]:
    """What a page asked the network for; what the browser asks for of its own accord has no initiator."""
    kind = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    started = [event["params"] for event in log["events"] if event["type"] == kind and "url" in event.get("params", {})]
    return [each["url"] for each in started if each["initiator"] != "not an origin"]


@needs_browser
@pytest.mark.slow
def test_what_is_near_hides_what_is_far_and_nothing_is_asked_for(tmp_path: Path) -> None:
    """On a page that somebody put an image from elsewhere into: a red Gaussian before a blue one, and from behind.

    From behind the page is without its policy, which alone keeps it from asking for the image.
    """
    two, elsewhere = bright(2), "http://127.0.0.1:9/a.png"
    two.means[:], two.log_scales[:], two.opacity_logits[:] = [[0.3, 0, 0], [-0.3, 0, 0]], math.log(0.15), [9, 1.5]
    two.sh[:, 0] = (np.array([RED, BLUE]) - 0.5) / 0.28209479
    write_html(tmp_path / "a.html", two, EVIL, azimuth_deg=50.0, elevation_deg=0.0)
    page = (tmp_path / "a.html").read_text(encoding="utf-8").replace("<canvas>", f'<img src="{elsewhere}"><canvas>')
    open_to_all = re.sub("default-src [^>]*'none'", "img-src *", page)
    opacity = 1 / (1 + math.exp(-1.5))
    from_the_front = 0.999 * RED + 0.001 * (opacity * BLUE + (1 - opacity))  # no Gaussian hides more than that
    from_the_back = opacity * BLUE + (1 - opacity) * (0.999 * RED + 0.001)
    for azimuth, text, color, asked in ((0, page, from_the_front, []), (180, open_to_all, from_the_back, [elsewhere])):
        (tmp_path / "a.html").write_text(text, encoding="utf-8")
        log, address = tmp_path / "net.json", f"file://{tmp_path}/a.html#azimuth={azimuth}"
        seen = screenshot(tmp_path, address, 501, 301, f"--log-net-log={log}")
        assert requests(json.loads(log.read_text())) == asked
        np.testing.assert_allclose(seen[150, 250], color.clip(0, 1), atol=0.004)
        np.testing.assert_allclose(seen[20, 250], 1)


@needs_browser
@pytest.mark.slow
def test_without_webgl_there_is_a_sentence(tmp_path: Path) -> None:
    write_html(tmp_path / "a.html", bright(), EVIL)
    text = chromium(tmp_path, f"file://{tmp_path}/a.html", "--dump-dom", gl=False)
    (tmp_path / "b.html").write_text(text, encoding="utf-8")
    page = Page(tmp_path / "b.html")
    assert page.all("title") == page.all("b") == [EVIL]
    assert page.all("span") == ["This page needs JavaScript and WebGL2, which this browser does not offer."]


GESTURES = Path(__file__).parents[1] / "support" / "gestures.js"
HASHES = {
    "#azimuth=-90&elevation=-20.5&distance=5e0": (-90, -20.5, 5),
    "#azimuth=750&elevation=95&distance=1e99": (30, 90, 1e6),
    "#azimuth=NaN&elevation=Infinity&distance=": (30, 15, 3.4),
    "#elevation=1;alert(1)&distance=%20&azimuth=7": (7, 15, 3.4),
    "#distance=-3&__proto__=1&target=5&fov=3": (30, 15, 0.01),
    "#%%%<script>": (30, 15, 3.4),
    "#": (30, 15, 3.4),
}


def played(folder: Path) -> dict:
    """The camera after each of many gestures, on a page of 640 x 480 pixels less the browser's frame."""
    write_html(folder / "a.html", bright(), "")
    page = (folder / "a.html").read_text(encoding="utf-8")
    page = page.replace("default-src", "img-src")  # so that the script below is allowed
    page = re.sub("(script|style)-src '[^']*'", "connect-src 'none'", page)
    script = "<script>" + GESTURES.read_text().replace("HASHES", json.dumps(list(HASHES))) + "</script></body>"
    style = "<style>canvas { width: 400px !important; height: 300px !important; }</style></head>"
    (folder / "a.html").write_text(page.replace("</body>", script).replace("</head>", style), encoding="utf-8")
    (folder / "b.html").write_text(chromium(folder, f"file://{folder}/a.html", "--dump-dom"), encoding="utf-8")
    states = json.loads(Page(folder / "b.html").all("script")[0])
    assert "error" not in states, states["error"]
    assert Page(folder / "b.html").all("span")[0].startswith("drag to turn")
    return states


@needs_browser
@pytest.mark.slow
def test_the_camera_follows_hands_and_addresses(tmp_path: Path) -> None:
    states = played(tmp_path)
    cameras = {name: state for name, state in states.items() if isinstance(state, dict)}
    seen = {name: (each["azimuth"], each["elevation"], each["distance"]) for name, each in cameras.items()}
    assert seen["turned"] == pytest.approx((30 - 0.4 * 50, 15 + 0.4 * 25, 3.4))
    assert (seen["over the top"], seen["below"], seen["reset"]) == ((30, 90, 3.4), (30, -90, 3.4), (30, 15, 3.4))
    assert states["waits"] and states["restored"]  # a lost context comes back
    assert states["draws"] == 1  # once for all that happens between two frames, and never when nothing happens
    assert seen["wheel"][2] == pytest.approx(3.4 * math.exp(0.1)) and seen["nearest"][2] == 0.01
    assert seen["met"] == pytest.approx((30, 15, 1.7)) and seen["one finger again"] == pytest.approx((30, 15 + 4, 1.7))
    for address, expected in HASHES.items():  # they hold numbers only
        assert seen[address] == expected, address
    assert all(states[name]["target"] == [0, 0, 0] for name in ("reset", *HASHES))
    # One finger moves by -10 and the spread of 40 pixels becomes 50; then the other moves by 30, and it becomes 80.
    pinched = (-10 / 2 * 80 / 50 + 30 / 2, 0, 3.4 / 2)
    for name, moved in (("moved by shift", (40, -30, 3.4)), ("moved by right", (40, -30, 3.4)), ("pinched", pinched)):
        state, views = states[name], camera(30, 15, 3.4, 40, 300, 400)
        assert state["distance"] == pytest.approx(moved[2])
        rotation = np.array([state["right"], state["down"], state["forward"]])
        np.testing.assert_allclose(rotation.T, views.c2w[0, :3, :3], atol=1e-6)
        place = views.K[0].double().numpy() @ rotation @ -np.array(state["eye"])  # what was seen is below the hand
        np.testing.assert_allclose(place / place[2], [200 + moved[0], 150 + moved[1], 1], rtol=1e-5)
