"""Reads `cargo metadata` and writes the list of what a program is made of: the JSON of cargo-auditable, in zlib.

Only what ends up in the program: dependencies for building, tests and procedural macros are marked or left out.
"""

import json
import sys
import zlib

metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
root = metadata["resolve"]["root"]


def below(package, kind):
    """The direct dependencies of a package of this kind: None is what it runs with, "build" what it is built with."""
    for dependency in nodes[package]["deps"]:
        if any(found["kind"] == kind for found in dependency["dep_kinds"]):
            yield dependency["pkg"]


def reach(start):
    found, todo = set(), list(start)
    while todo:
        package = todo.pop()
        if package not in found:
            found.add(package)
            todo.extend(below(package, None))
    return found


def is_macro(package):
    return any("proc-macro" in target["kind"] for target in packages[package]["targets"])


def running():
    """What runs: a procedural macro and what is below it are needed for building only."""
    found, todo = set(), [root]
    while todo:
        package = todo.pop()
        if package not in found and not is_macro(package):
            found.add(package)
            todo.extend(below(package, None))
    return found


runtime = running()
build = set()
for package in reach([root]):
    build |= reach(below(package, "build"))
everything = sorted(reach([root]) | build, key=lambda id: (packages[id]["name"], packages[id]["version"], id))
index = {id: number for number, id in enumerate(everything)}


def entry(id):
    package = packages[id]
    source = package["source"] or "local"
    described = {
        "name": package["name"],
        "version": package["version"],
        "source": "crates.io" if "crates.io" in source else source.split("+")[0],
    }
    if id not in runtime:
        described["kind"] = "build"
    links = {index[other] for kind in (None, "build") for other in below(id, kind) if other in index}
    if links:
        described["dependencies"] = sorted(links)
    if id == root:
        described["root"] = True
    return described


text = json.dumps({"packages": [entry(id) for id in everything]}, separators=(",", ":"))
sys.stdout.buffer.write(zlib.compress(text.encode(), 9))
