#!/usr/bin/env python3
"""Makes photos/train/*.jpg, photos/test/*.jpg and photos.safetensors from the data sets they come from (README.md).

    python3 models/data/make_photos.py FACADES PHOTOS

FACADES holds aligned/{train,test}/N.jpg (photograph left, labels right) and index.tsv; PHOTOS holds 01.png to 12.png.

photos/: 256x256, JPEG quality 88. From the facades the left halves: of each photograph one crop, those with a mean brightness of 64
or more, 40 of train and 8 of test, evenly spread; of PHOTOS the middle 512x512, halved, 2 of them for the test.
photos.safetensors: `x`, U8 [12, 1, 3, 128, 128], the middle 256x256 of PHOTOS, halved by averaging.

Needs Pillow (made with 9.4).
"""
import json
import os
import struct
import sys
from PIL import Image, ImageStat

HERE = os.path.dirname(os.path.abspath(__file__))
TEST_PHOTOS = (7, 9)


def save(image, split, name):
    folder = os.path.join(HERE, "photos", split)
    os.makedirs(folder, exist_ok=True)
    image.save(os.path.join(folder, name), quality=88, optimize=True)


def middle(image, size):
    x, y = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((x, y, x + size, y + size))


def facades(folder, split, count):
    seen, found = set(), []
    for line in open(os.path.join(folder, "index.tsv")):
        of, number, source = line.rstrip("\n").split("\t")
        photograph = source.split("_scaled_")[0]
        if of != split or photograph in seen:
            continue
        image = Image.open(os.path.join(folder, "aligned", split, number + ".jpg")).convert("RGB").crop((0, 0, 256, 256))
        if ImageStat.Stat(image.convert("L")).mean[0] >= 64:
            seen.add(photograph)
            found.append((int(number), image))
    for i in range(count):
        number, image = found[i * len(found) // count]
        save(image, split, f"facade-{number:03}.jpg")


def safetensors(images):
    data = b"".join(plane.tobytes() for image in images for plane in middle(image, 256).reduce(2).split())
    header = json.dumps({"x": {"dtype": "U8", "shape": [len(images), 1, 3, 128, 128], "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(os.path.join(HERE, "photos.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header + data)


facades(sys.argv[1], "train", 40)
facades(sys.argv[1], "test", 8)
photos = [Image.open(os.path.join(sys.argv[2], f"{i:02}.png")).convert("RGB") for i in range(1, 13)]
for i, image in enumerate(photos, 1):
    save(middle(image, 512).reduce(2), "test" if i in TEST_PHOTOS else "train", f"kodak-{i:02}.jpg")
safetensors(photos)
