"""Reads and changes the executables that go into a wheel: run path, libraries, and versions of the libraries' symbols.

The run path of an executable is an entry of its dynamic section (`readelf --dynamic` shows it)."""

import re
import struct
import subprocess
import sys

DT_NULL, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 5, 15, 29
PT_LOAD, PT_DYNAMIC = 1, 2
# The newest symbol version of libstdc++ that a system with this glibc has at the latest, as the manylinux policies say.
GLIBCXX = {24: 27, 28: 31, 29: 34, 30: 35, 33: 39}


def without_run_path(data):
    """The bytes of a 64-bit little-endian ELF file without the entries for a run path, and with an empty text in their
    place. Entries behind a removed entry move up, so that the section ends earlier."""
    data = bytearray(data)
    if data[:6] != b"\x7fELF\x02\x01":
        sys.exit("error: this is no 64-bit little-endian ELF file\nhint: the wheel is for Linux on x86-64 and arm64")
    start, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    # Kind, offset in the file, address, length in the file.
    segments = [(struct.unpack_from("<I", data, start + i * size)[0], *struct.unpack_from("<QQ", data, start + i * size + 8),
                 struct.unpack_from("<Q", data, start + i * size + 32)[0]) for i in range(count)]
    offset, length = next((offset, length) for kind, offset, _, length in segments if kind == PT_DYNAMIC)
    entries = [struct.unpack_from("<QQ", data, place) for place in range(offset, offset + length, 16)]
    address = next(value for tag, value in entries if tag == DT_STRTAB)
    texts = next(address - first + place for kind, place, first, extent in segments
                 if kind == PT_LOAD and first <= address < first + extent)
    for _, value in (entry for entry in entries if entry[0] in (DT_RPATH, DT_RUNPATH)):
        end = data.index(0, texts + value)
        data[texts + value:end] = bytes(end - texts - value)
    kept = [entry for entry in entries if entry[0] not in (DT_RPATH, DT_RUNPATH)]
    kept += [(DT_NULL, 0)] * (len(entries) - len(kept))
    for place, entry in zip(range(offset, offset + length, 16), kept):
        struct.pack_into("<QQ", data, place, *entry)
    return bytes(data)


def printed(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}).stdout


def libraries(path):
    """The names of the libraries that an executable loads."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", printed("readelf", "--dynamic", str(path)))


def oldest_glibc(path):
    """The number N of the oldest glibc 2.N whose systems have all symbols that an executable needs, and the symbol
    version that decides."""
    # The line of a symbol that the executable needs says `*UND*`; its version stands in parentheses.
    lines = printed("objdump", "--dynamic-syms", str(path)).splitlines()
    versions = {match[1] for line in lines if "*UND*" in line and (match := re.search(r"\((GLIBC(?:XX)?_[0-9.]+)\)", line))}
    needs = []
    for version in versions:
        name, numbers = version.split("_")
        numbers = [int(number) for number in numbers.split(".")]
        if name == "GLIBC":
            needs.append((numbers[1], f"{version} in {path.name}"))
        elif numbers[2:] and numbers[2] > min(GLIBCXX):
            known = [glibc for newest, glibc in sorted(GLIBCXX.items()) if newest >= numbers[2]]
            if not known:
                sys.exit(f"error: {path} needs {version}, which no known manylinux policy has\n"
                         "hint: compile with an older g++, or add the policy to setup/elf.py")
            needs.append((known[0], f"{version} in {path.name}"))
    return max(needs)


def machine(path):
    """The name of the processor's architecture in a tag."""
    header = printed("readelf", "--file-header", str(path))
    names = {"X86-64": "x86_64", "AArch64": "aarch64"}
    return next(tag for name, tag in names.items() if name in header)
