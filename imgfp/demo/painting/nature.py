"""Painters of nature: each takes (height, width, rng) and returns (height,width,3) uint8 RGB."""

from __future__ import annotations

import cv2
import numpy as np

from imgfp.demo.painting.ingredients import (
    cloud,
    ellipse,
    from_edge,
    hues,
    mixed,
    polygon,
    relief,
    rgb,
    ridge,
    shaded,
    sites,
    stroke,
)


def leaves(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Dead leaves model: overlapping shapes whose sizes follow a power law, which has the statistics of
    natural images (Lee, Mumford and Huang 2001)."""
    colours = hues(rng, 8, 0.5)
    image = np.full((height, width, 3), colours[0], np.uint8)
    rounded = (0.0, 0.5, 1.0)[rng.integers(3)]
    smallest, power = rng.uniform(3, 8), rng.uniform(0.5, 0.9)
    sizes = np.minimum(smallest / rng.random(480) ** power, height / 2)
    for i, size in enumerate(np.sort(sizes)[::-1]):
        centre = rng.uniform((0, 0), (width, height))
        colour = colours[i % 8] * rng.uniform(0.55, 1.2)
        if rng.random() < rounded:
            axes = size * rng.uniform(0.3, 1), size
            ellipse(image, centre, axes, colour, rng.uniform(0, 360))
        else:
            angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
            polygon(image, centre + size * np.stack([np.cos(angle), np.sin(angle)], 1), colour)
    return shaded(image, 0.75 + 0.5 * cloud(height, width, rng, 12, 0.7))


def hills(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Ranges of hills under a sky with a sun, trees on the nearest."""
    sky = hues(rng, 4, 0.25, natural=0.8)[1:]
    down = np.linspace(0, 1.3, height, dtype=np.float32)[:, None]
    image = mixed(down + 0.7 * (cloud(height, width, rng, 2) - 0.5), sky)
    if rng.random() < 0.7:
        centre = rng.uniform((0.1 * width, 0.1 * height), (0.9 * width, 0.4 * height))
        ellipse(image, centre, [rng.uniform(0.03, 0.09) * height] * 2, (255, 250, 225))
        image = cv2.GaussianBlur(image, (0, 0), 1.5)
    near = hues(rng, 3, 0.2, natural=0.8)[0] + 25.0
    grain = cloud(height, width, rng, 10, 0.8)
    count = int(rng.integers(3, 7))
    first, tall = rng.uniform(0.25, 0.5), rng.uniform(0.08, 0.3)
    for i in range(count):
        depth = (i + 1) / count
        tops = height * (
            first + (0.9 - first) * i / count - tall * ridge(width, rng) * (1.2 - depth)
        )
        inside = np.arange(height)[:, None] > tops[None]
        colour = near * depth + sky[-1] * 0.8 * (1 - depth)
        ground = mixed(np.roll(grain, 37 * i, axis=1), np.outer([0.5, 1.5], colour))
        cv2.copyTo(ground, inside.astype(np.uint8), image)
        if depth > 0.7:
            for x in rng.integers(0, width, int(rng.integers(0, 70))):
                foot, size = tops[x] + 6, rng.uniform(0.04, 0.16) * height
                crown = [[x - size / 4, foot], [x, foot - size], [x + size / 4, foot]]
                polygon(image, crown, colour * rng.uniform(0.3, 0.8))
    return image


def sea(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Water to the horizon with waves and a path of light, islands and sails."""
    sky, water = hues(rng, 4, 0.2, natural=0.8)[1:], hues(rng, 4, 0.15, natural=0.8)
    horizon = int(height * rng.uniform(0.25, 0.6))
    down = np.linspace(0.1, 1.3, height, dtype=np.float32)[:, None]
    image = mixed(down + 0.8 * (cloud(height, width, rng, 2, 0.6) - 0.5), sky)
    below = height - horizon
    # A patch of noise in perspective: its rows become denser towards the horizon.
    depth = (np.arange(below, dtype=np.float32)[:, None] + 2) / below
    row = np.repeat(rng.uniform(25, 60) / depth % 255, width, axis=1).astype(np.float32)
    column = (np.arange(width, dtype=np.float32)[None] - width / 2) * (0.35 / depth**0.5) + 128
    waves = cloud(256, 256, rng, rng.uniform(10, 30), 0.75)
    waves = cv2.remap(waves, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    sun = rng.uniform(0.2, 0.8) * width
    path = np.exp(-(((np.arange(width, dtype=np.float32) - sun) / (0.09 * width)) ** 2))
    image[horizon:] = mixed(waves * (0.7 + 0.6 * path) - 0.1 + 0.2 * (1 - depth), water)
    for _ in range(int(rng.integers(2, 9))):
        x, size = rng.uniform(0, width), rng.uniform(0.03, 0.16) * height
        if rng.random() < 0.6:
            for side, share in ((1, 0.55), (-1, 0.35)):
                sail = [
                    [x, horizon + 3],
                    [x, horizon - size],
                    [x + side * size * share, horizon + 3],
                ]
                polygon(image, sail, sky[-1] * rng.uniform(0.5, 1.2))
        else:
            line = (
                horizon
                + 3
                - size * ridge(int(4 * size), rng) * np.sin(np.linspace(0, 3.14, int(4 * size)))
            )
            shore = np.stack([x - 2 * size + np.arange(len(line)), line], axis=1)
            polygon(image, shore, water[0] * rng.uniform(0.6, 1.4))
    return image


def forest(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Trunks with branches in mist, nearer ones darker."""
    mist = hues(rng, 4, 0.2, natural=0.8)
    image = mixed(cloud(height, width, rng, 3, 0.6), mist[2:])
    for depth in np.sort(rng.random(int(rng.integers(10, 40)))):
        colour = mist[0] * depth + mist[2] * (1 - depth)
        x, thick = rng.uniform(0, width), (2 + 22 * depth**2) * height / 350
        top = x + rng.uniform(-0.08, 0.08) * height
        trunk = [
            [x - thick, height],
            [x + thick, height],
            [top + thick / 2, 0],
            [top - thick / 2, 0],
        ]
        polygon(image, trunk, colour)
        for _ in range(int(rng.integers(2, 9))):
            y = rng.uniform(0, 0.8) * height
            root = x + (top - x) * (1 - y / height), y
            reach = rng.uniform(-0.25, 0.25) * width * depth, -rng.uniform(0.02, 0.2) * height
            stroke(image, root, np.add(root, reach), colour, thick / 4)
            twig = np.add(root, np.multiply(reach, 0.6))
            stroke(image, twig, np.add(twig, (-reach[0] / 4, reach[1] / 3)), colour, thick / 7)
    return shaded(image, 0.65 + 0.7 * cloud(height, width, rng, 40, 0.9))


def grass(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes along a flow field: grass, fur or brush strokes."""
    colours = hues(rng, 7, 0.3)
    flow = cloud(height, width, rng, 2, 0.4) * rng.uniform(2, 7) + rng.uniform(0, 6)
    patch = cloud(height, width, rng, 3, 0.5)
    image = mixed(patch, colours[:3])
    count, thick = int(rng.integers(900, 2200)), int(rng.integers(1, 5))
    x, y = rng.integers(0, width, count), rng.integers(0, height, count)
    reach = rng.uniform(0.02, 0.1) * height * rng.uniform(0.4, 1, count)
    ends = np.stack([x + reach * np.cos(flow[y, x]), y + reach * np.sin(flow[y, x])], 1).astype(int)
    pick = np.clip(patch[y, x] * 7 + rng.uniform(-2, 2, count), 0, 6).astype(int)
    inks = [rgb(colour) for colour in colours]
    for start, end, ink in zip(np.stack([x, y], 1).tolist(), ends.tolist(), pick, strict=True):
        cv2.line(image, start, end, inks[ink], thick, cv2.LINE_AA)
    return image


def pebbles(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Rounded stones, each of its own colour and grain."""
    count = int(rng.integers(50, 420))
    labels = sites(height, width, rng.integers(0, (width, height), (count, 2)))
    edge = from_edge(labels)
    dome = cv2.GaussianBlur(np.sqrt(np.minimum(edge, rng.uniform(8, 20))), (0, 0), 1)
    colours = hues(rng, 6, 0.2, natural=0.7)[rng.integers(6, size=count + 1)]
    colours = np.clip(colours * rng.uniform(0.6, 1.15, (count + 1, 1)), 0, 255).astype(np.uint8)
    light = relief(dome, 0.22) * (0.6 + 0.6 * cloud(height, width, rng, 20, 0.8))
    return shaded(colours[labels], np.where(edge < 2, 0.25, light))


def galaxy(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Stars before glowing gas."""
    gas = cloud(height, width, rng, 2, 0.65) * cloud(height, width, rng, 3, 0.6)
    image = mixed(1.6 * gas - 0.2, np.vstack([[4, 4, 12], hues(rng, 4, 0.4)]))
    for _ in range(int(rng.integers(80, 420))):
        centre = rng.uniform((0, 0), (width, height))
        size = min(5, 0.6 / rng.random() ** 0.5)
        ellipse(image, centre, (size, size), rng.uniform(170, 256, 3))
        if size > 3:
            for spike in ((4 * size, 0), (0, 4 * size)):
                stroke(image, centre - spike, centre + spike, (220, 225, 255))
    return cv2.GaussianBlur(image, (0, 0), 0.7)


def petals(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Flowers of many petals over a blurred background."""
    ground = leaves(height // 4, width // 4, rng)
    image = cv2.resize(cv2.blur(ground, (7, 7)), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(1, 7))):
        colours = hues(rng, 4, 0.2).astype(float)
        centre = rng.uniform((0.15 * width, 0.15 * height), (0.85 * width, 0.85 * height))
        size, count = rng.uniform(0.15, 0.4) * height, int(rng.integers(6, 22))
        for ring in range(int(rng.integers(2, 6)), 0, -1):
            reach = size * ring / 5 + size * 0.1
            turn = ring * 0.7 + rng.uniform(0, 0.1, count)
            for angle in np.arange(count) * 2 * np.pi / count + turn:
                middle = centre + reach / 2 * np.array([np.cos(angle), np.sin(angle)])
                axes = reach / 2, reach * 2.2 / count
                colour = colours[1] + (colours[3] - colours[1]) * (1 - ring / 6)
                ellipse(image, middle, axes, colour * rng.uniform(0.75, 1.1), np.rad2deg(angle))
                ellipse(image, middle, axes, colour * 0.5, np.rad2deg(angle), thick=1)
        ellipse(image, centre, (size * 0.12, size * 0.12), colours[0])
    return shaded(image, 0.8 + 0.4 * cloud(height, width, rng, 16, 0.8))


def marble(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Agate or wood: bands distorted by noise."""
    bend = cloud(height, width, rng, rng.uniform(1, 3), rng.uniform(0.35, 0.55))
    x = np.linspace(0, 1, width, dtype=np.float32)[None] - np.float32(rng.uniform(-0.3, 1.3))
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None] - np.float32(rng.uniform(-0.3, 1.3))
    bands = np.sqrt((x * np.float32(rng.uniform(0.1, 2))) ** 2 + y**2)
    bands = (bands + np.float32(rng.uniform(0.1, 1)) * bend) * np.float32(rng.uniform(3, 14))
    veins = cloud(height, width, rng, rng.uniform(6, 40), 0.8) - 0.5
    return mixed(0.5 + 0.35 * np.sin(bands * 2 * np.pi) + 0.5 * veins, hues(rng, 5, 0.25))


def julia(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A Julia set from near the edge of the Mandelbrot set, coloured by escape time."""
    turn = rng.uniform(0, 2 * np.pi)
    seed = (np.exp(1j * turn) / 2 - np.exp(2j * turn) / 4) * rng.uniform(1.01, 1.08)
    zoom = rng.uniform(0.5, 1.3)
    x = np.linspace(-zoom, zoom, width // 2) * width / height + rng.uniform(-0.3, 0.3)
    y = np.linspace(-zoom, zoom, height // 2) + rng.uniform(-0.3, 0.3)
    z = (x[None] + 1j * y[:, None]).astype(np.complex64)
    time: np.ndarray = np.zeros(z.shape, np.float32)
    for _ in range(48):
        z = z * z + np.complex64(seed)
        size = z.real**2 + z.imag**2
        time += size < 16
        z[size > 1e6] = 1e3
    time = cv2.resize(time, (width, height), interpolation=cv2.INTER_LINEAR)
    texture = 0.15 * (cloud(height, width, rng, 20, 0.8) - 0.5)
    return mixed((time / 48) ** 0.5 + texture, np.vstack([hues(rng, 6, 0.6), [12, 10, 20]]))


PAINTERS = (leaves, hills, sea, forest, grass, pebbles, galaxy, petals, marble, julia)
