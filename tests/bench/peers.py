"""peers.py: kdc beside PyTorch and ONNX Runtime, in alternating runs; one table in Markdown. Started by peers.sh.

Every engine is a process that waits for a line and then runs (peers_serve.h); all others are stopped (SIGSTOP)
meanwhile, so nobody's idle threads take time from who is measured. A round asks each engine once, in turn, and the
machine's multiply-add peak; the order turns round with every round. What is compared are ratios within a round; the
table has their median, least and most. kdc's inference is the exported library in a small C program (peers_net.c), its
training steps are libkdc's (peers_step.c). Rows whose engine is missing say so. With --busy, one thread is measured, by
processor time: for a machine on which others run.
"""
import argparse
import array
import json
import os
import random
import re
import resource
import signal
import statistics
import struct
import subprocess
import sys
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODELS = os.path.join(ROOT, "models")
RECIPES = os.path.join(MODELS, "recipes/")
PEERS = os.path.join(HERE, "peers.kd")
TORCH = os.path.join(HERE, "peers_torch.py")

# name: (what, GFLOP by methods A.5 (Tin), target of design/performance.md)
NETS = {
    "R64": ("ResNet-9 ngf 64", 99.104, 3.2),
    "R32": ("ResNet-9 ngf 32", 25.392, 3.0),
    "R16": ("ResNet-9 ngf 16", 6.656, 3.0),
    "M48": ("mobile ResNet-9 ngf 48", 12.976, 3.0),
    "U64": ("U-Net-256 ngf 64", 12.096, 1.5),
    "U16": ("U-Net-256 ngf 16", 0.812, 2.0),
}
# name: (what, kind, file, name there, params, target)
STEPS = {
    "contrast": ("ReKo's contrastive term 256 x 4096 x 256", "grads", PEERS, "contrast", [], 4.0),
    "spatial": ("spatial similarity term 4096 x 4096 x 256", "grads", PEERS, "spatial", [], 4.0),
    "distil16": ("distil ngf 16 from 64, ReKo + PatchGAN", "session", PEERS, "distil", ["ngf=16"], 3.0),
    "distil32": ("distil ngf 32 from 64, ReKo + PatchGAN", "session", PEERS, "distil", ["ngf=32"], 3.0),
    "pix2pix": ("Pix2Pix U-Net-256 ngf 64", "session", RECIPES + "pix2pix.kd", "pix2pix", [], 3.0),
    "cyclegan": ("CycleGAN ngf 64 with identity loss", "session", RECIPES + "cyclegan.kd", "cyclegan", [], 3.5),
}


class Missing(Exception):
    pass


# ---- processes -----------------------------------------------------------------------------------------------------

class Engine:
    """A process that serves; stopped but while it is asked."""
    alive = []

    def __init__(self, command, threads):
        env = dict(os.environ)
        for library in ("OMP", "MKL", "OPENBLAS"):
            env[library + "_NUM_THREADS"] = str(threads)
        self.which = ""
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)
        Engine.alive.append(self)
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise Missing(first_line(self.process.stderr.read()) or "it ended")
            if line.startswith("which "):
                self.which = line.split()[1]
            if line.startswith("ready"):
                break
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, line):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise Missing(first_line(self.process.stderr.read()) or "it ended")
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def run(self, warm, least, seconds):
        return statistics.median(float(t) for t in self.ask("run %d %d %g" % (warm, least, seconds)).split())

    def most(self):
        return max(float(v) for v in self.ask("run 0 3 0").split())

    def close(self):
        Engine.alive.remove(self)
        self.process.kill()
        self.process.wait()


def first_line(text):
    lines = [s for s in text.splitlines() if s.strip()]
    return lines[-1].strip()[:120] if lines else ""


def must(command, **more):
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if r.returncode != 0:
        raise Missing("%s: %s" % (os.path.basename(command[0]), first_line(r.stderr or r.stdout)))
    return r.stdout


# ---- what each engine needs ----------------------------------------------------------------------------------------

class Work:
    """The folder with weights, exports, ONNX files: made once, when first asked for."""

    def __init__(self, a):
        self.a, self.folder = a, a.work
        os.makedirs(self.folder, exist_ok=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def weights(self, name):
        """Random, as the program's init says, in its order of creation."""
        path = self.path(name + ".safetensors")
        if os.path.exists(path):
            return path
        text = must([self.a.kdc, PEERS + ":" + name, "-I", MODELS, "--emit=ir"])
        found = re.findall(r'input \{name="([^"]*)", role="(?:weight|buffer)", init="([^"]*)"\}: f32\[([^\]]*)\]', text)
        rng, head, at, parts = random.Random(1), {}, 0, []
        noise = array.array("f", (rng.gauss(0, 1) for _ in range(1 << 16)))
        for tensor, init, dims in found:
            shape = [int(d) for d in dims.split(",")]
            n = 1
            for d in shape:
                n *= d
            spread = re.match(r"normal\((.*), (.*)\)", init)
            mean, scale = (float(spread[1]), float(spread[2])) if spread else (1.0 if init == "ones" else 0.0, 0.0)
            turn = rng.randrange(1 << 16)
            block = array.array("f", (mean + scale * v for v in noise[turn:] + noise[:turn])).tobytes()
            parts.append((block * (n * 4 // len(block) + 1))[:4 * n])
            head[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * n]}
            at += 4 * n
        text = json.dumps(head).encode()
        with open(path + ".new", "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
        os.rename(path + ".new", path)
        return path

    def net(self, name, threads):
        """kdc's exported library in a program of its own. Made anew each time: the compiler may have changed."""
        folder, weights = self.path("%s-%d" % (name, threads)), self.weights(name)
        spread = ["--openmp", "--threads", str(threads)] if threads > 1 else []
        must([self.a.kdc, "export", PEERS + ":" + name, "-I", MODELS, "--weights", weights, "-o", folder, "-q"] +
             spread)
        program = os.path.join(folder, "run")
        must(["cc", "-O2", "-DNET=" + name, '-DHEADER="%s.h"' % name, "-I" + folder, os.path.join(HERE, "peers_net.c"),
              os.path.join(folder, "lib%s.a" % name), "-o", program] + (["-fopenmp"] if threads > 1 else []))
        return program

    def onnx(self, name):
        path = self.path(name + ".onnx")
        if not os.path.exists(path):
            must(self.torch("onnx", name, self.weights(name), path))
        return path

    def ort(self, name, threads):
        if not self.a.ort:
            raise Missing("no ONNX Runtime")
        program = self.path("peers_ort")
        must(["cc", "-O2", os.path.join(HERE, "peers_ort.c"), "-o", program, "-ldl"])
        return [program, self.a.ort, self.onnx(name), str(threads)]

    def torch(self, *args):
        if not self.a.torch:
            raise Missing("no PyTorch")
        blas = ["env", "LD_LIBRARY_PATH=" + self.a.blas] if self.a.blas else []
        return blas + [self.a.python, TORCH] + [str(v) for v in args]

    def script(self, name):
        path = self.weights(name) + ".pt"
        if not os.path.exists(path):
            must(self.torch("script", name, self.weights(name), path))

    def picture(self):
        """A PNG of 256 x 256, rows of plain RGB."""
        path = self.path("in.png")
        rows = b"".join(b"\0" + bytes((x * y + c * 40) % 256 for x in range(256) for c in range(3)) for y in range(256))

        def chunk(tag, data):
            return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

        with open(path, "wb") as f:
            f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 256, 8, 2, 0, 0, 0)) +
                    chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
        return path


# ---- measuring -----------------------------------------------------------------------------------------------------

class Measured:
    """By engine: a time for each round, in ms; notes why there is none."""

    def __init__(self):
        self.ms, self.why, self.peak, self.memory, self.which, self.apart = {}, {}, [], {}, {}, {}

    def machine(self, busy):
        """GFLOP/s; among others only the best measurement is the machine's."""
        return max(self.peak) if busy else statistics.median(self.peak)

    def median(self, engine):
        return statistics.median(self.ms[engine]) if self.ms.get(engine) else None

    def best_peer(self):
        peers = [e for e in self.ms if e != "kdc" and self.ms[e]]
        return min(peers, key=self.median) if peers else None

    def ratios(self, peer):
        return [p / k for p, k in zip(self.ms[peer], self.ms["kdc"])]


def start(m, engines, threads):
    """engines: name -> function that gives a command."""
    running = {}
    for name, command in engines.items():
        try:
            running[name] = Engine(command(), threads)
            m.which[name] = running[name].which
        except Missing as e:
            m.why[name] = str(e)
    return running


def alternate(work, engines, threads, rounds, warm, least, seconds, same=False):
    m, a = Measured(), work.a
    running = start(m, engines, threads)
    peak = Engine([a.step, "peak", str(threads)], threads)
    try:
        for name in list(running):
            m.ms[name] = []
            try:
                running[name].run(0, 1, 0)
            except Missing as e:
                m.why[name] = str(e)
                running.pop(name).close()
        for r in range(rounds):
            order = list(running) if r % 2 == 0 else list(reversed(running))
            m.peak.append(peak.most())
            for name in order:
                m.ms[name].append(running[name].run(warm, least, seconds))
        for name, e in running.items():
            m.memory[name] = float(e.ask("mem"))
        if same:
            compare(work, m, running)
    finally:
        for e in running.values():
            e.close()
        peak.close()
    return m


def compare(work, m, running):
    """Largest difference of a peer's output from kdc's: that all compute the same network."""
    out = {}
    for name, e in running.items():
        path = work.path("out.f32")
        if os.path.exists(path):
            os.remove(path)
        e.ask("out " + path)
        if os.path.exists(path) and os.path.getsize(path):
            out[name] = array.array("f", open(path, "rb").read())
    for name in out:
        if name != "kdc" and "kdc" in out:
            m.apart[name] = max(abs(x - y) for x, y in zip(out[name], out["kdc"]))


def cold(command, busy):
    """Milliseconds; busy: of processor time."""
    def now():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime if busy else time.monotonic()

    begin = now()
    must(command)
    return 1e3 * (now() - begin)


def cold_starts(work, rounds):
    """From the start of the process to its end after one picture, ResNet-9 ngf 16, one thread."""
    a, m, name = work.a, Measured(), "R16"
    try:
        warm = Engine([work.net(name, 1)], 1)
        m.ms["warm"] = [warm.run(3, 5, 0)]
        warm.close()
    except Missing as e:
        m.why["warm"] = str(e)
    ways = {}
    for way, make in {
        "kdc": lambda: [work.net(name, 1), "once"],
        "kdc run": lambda: ["env", "OMP_NUM_THREADS=1", a.kdc, "run", PEERS + ":" + name, "-I", MODELS, "--weights",
                            work.weights(name), "-i", work.picture(), "-o", work.path("out.png"), "--threads=1", "-q"],
        "ORT": lambda: work.ort(name, 1) + ["once"],
        "PyTorch": lambda: (work.script(name), work.torch("once", name, work.weights(name), 1))[1],
    }.items():
        try:
            ways[way] = make()
            cold(ways[way], a.busy)
            m.ms[way] = []
        except Missing as e:
            m.why[way] = str(e)
            ways.pop(way, None)
    for _ in range(rounds):
        for way, command in ways.items():
            m.ms[way].append(cold(command, a.busy))
    return m


def compile_times(work, rounds):
    """Everything from the source text on, no cache, all cores."""
    found = {}
    for what, place, params in (("one generator, ResNet-9 ngf 64", PEERS + ":R64", []),
                                ("the CycleGAN step", RECIPES + "cyclegan.kd:cyclegan", [])):
        command = [work.a.kdc, place, "-I", MODELS, "--no-cache", "-q"] + params
        found[what] = [cold(command, work.a.busy) for _ in range(rounds)]
    return found


# ---- the table -----------------------------------------------------------------------------------------------------

def ms(v):
    return "" if v is None else "%.0f" % v if v >= 100 else "%.1f" % v if v >= 10 else "%.2f" % v


def cell(m, engine):
    v = m.median(engine)
    if v is None:
        return m.why.get(engine, "not measured")
    return ms(v) + (" " + m.which[engine] if m.which.get(engine) else "")


def ratio_cells(m, target):
    peer = m.best_peer()
    if not m.ms.get("kdc") or not peer:
        return ["", "", "%.1f" % target]
    r = m.ratios(peer)
    return [peer, "**%.2f** (%.2f to %.2f)" % (statistics.median(r), min(r), max(r)), "%.1f" % target]


class Table:
    def __init__(self, path):
        self.path, self.lines = path, []

    def say(self, line=""):
        print(line, flush=True)
        self.lines.append(line)
        with open(self.path, "w") as f:
            f.write("\n".join(self.lines) + "\n")

    def head(self, *cells):
        self.say("| " + " | ".join(cells) + " |")
        self.say("|" + "---|" * len(cells))

    def row(self, *cells):
        self.say("| " + " | ".join(cells) + " |")


def inference(work, table, wanted):
    a, memory = work.a, []
    table.say("\n## Inference, 256 x 256, batch 1 (kdc: the exported library in a C program)\n")
    table.head("network", "threads", "kdc ms", "ONNX Runtime ms", "PyTorch ms", "best peer", "best peer / kdc",
               "target", "kdc GFLOP/s", "of the peak", "peak GFLOP/s", "furthest from kdc")
    for name, (what, gflop, target) in NETS.items():
        for threads in a.threads:
            if not wanted("inference %s %s" % (name, what)):
                continue
            m = alternate(work, {"kdc": lambda: [work.net(name, threads)], "ORT": lambda: work.ort(name, threads),
                                 "PyTorch": lambda: work.torch("net", name, work.weights(name), threads)},
                          threads, a.rounds, 1, 1 if a.quick else 2, 0.1 if a.quick else 0.3, same=True)
            peak, k = m.machine(a.busy), m.median("kdc")
            speed = gflop / k * 1e3 if k else 0
            apart = "%.0e" % max(m.apart.values()) if m.apart else ""
            table.row(what, str(threads), cell(m, "kdc"), cell(m, "ORT"), cell(m, "PyTorch"), *ratio_cells(m, target),
                      "%.0f" % speed, "%.0f %%" % (100 * speed / peak), "%.0f" % peak, apart)
            if threads == a.threads[0]:
                memory.append((what, m))
    if memory:
        table.say("\nResident memory of a process that only runs the network (VmHWM), %d thread(s):\n" % a.threads[0])
        table.head("network", "kdc MB", "ONNX Runtime MB", "kdc / ORT", "target")
        for what, m in memory:
            k, o = m.memory.get("kdc"), m.memory.get("ORT")
            table.row(what, "%.0f" % k if k else m.why.get("kdc", ""), "%.0f" % o if o else m.why.get("ORT", ""),
                      "%.2f" % (k / o) if k and o else "", "0.33")


def steps(work, table, wanted):
    a, said = work.a, False
    for name, (what, kind, file, inside, params, target) in STEPS.items():
        for threads in a.threads:
            if not wanted("step %s %s" % (name, what)):
                continue
            if not said:
                table.say("\n## Training steps and terms, forward and backward (kdc: libkdc; peer: PyTorch eager)\n")
                table.head("step", "threads", "kdc ms", "PyTorch ms", "PyTorch / kdc", "target", "kdc MB", "PyTorch MB",
                           "kdc / PyTorch", "peak GFLOP/s")
                said = True
            short = name in ("contrast", "spatial")
            rounds = a.rounds if short else max(1, a.rounds // 2)
            m = alternate(work, {"kdc": lambda: [a.step, kind, file, inside, str(threads), MODELS] + params,
                                 "PyTorch": lambda: work.torch("step", name, threads)},
                          threads, rounds, 1 if short else 0, 2 if short else 1, 0)
            _, ratio, wish = ratio_cells(m, target)
            k, p = m.memory.get("kdc"), m.memory.get("PyTorch")
            table.row(what, str(threads), cell(m, "kdc"), cell(m, "PyTorch"), ratio, wish, "%.0f" % k if k else "",
                      "%.0f" % p if p else "", "%.2f" % (k / p) if k and p else "", "%.0f" % m.machine(a.busy))


def starts(work, table, wanted):
    if wanted("cold start"):
        m = cold_starts(work, work.a.rounds)
        table.say("\n## Cold start, ResNet-9 ngf 16: process start to its end after one picture, 1 thread\n")
        table.head("exported library ms", "(one inference of it, warm)", "kdc run, warm cache ms", "ONNX Runtime ms",
                   "PyTorch ms")
        table.row(*[cell(m, w) for w in ("kdc", "warm", "kdc run", "ORT", "PyTorch")])
        table.say("\nTargets: exported library 15 ms and one inference, kdc run 200 ms.")
    if wanted("compile"):
        table.say("\n## Compile, cold (no cache, all cores)\n")
        table.head("what", "seconds", "target")
        for (what, times), target in zip(compile_times(work, min(work.a.rounds, 3)).items(), (3, 10)):
            seconds = tuple(1e-3 * f(times) for f in (statistics.median, min, max))
            table.row(what, "%.2f (%.2f to %.2f)" % seconds, str(target))


def machine():
    with open("/proc/cpuinfo") as f:
        names = [s.split(":")[1].strip() for s in f if s.startswith("model name")]
    return "%s, %d cores" % (names[0] if names else "unknown processor", os.cpu_count())


def options():
    p = argparse.ArgumentParser(prog="peers.sh", description="kdc beside PyTorch and ONNX Runtime; one table")
    p.add_argument("--rounds", type=int, help="rounds of alternating runs (7; long steps half as many)")
    p.add_argument("--threads", default="1,2", help="thread counts, with commas (1,2)")
    p.add_argument("--only", default="",
                   help="rows whose kind or name has this pattern: inference, step, cold, compile, R64, pix2pix")
    p.add_argument("--busy", action="store_true", help="others use this machine: one thread, by processor time")
    p.add_argument("--quick", action="store_true", help="3 rounds of short runs")
    p.add_argument("--out", help="the table's file (peers.md in the work folder)")
    for name in ("kdc", "step", "ort", "blas", "python", "work"):
        p.add_argument("--" + name, default="", help=argparse.SUPPRESS)
    a = p.parse_args()
    a.threads = [1] if a.busy else [int(t) for t in a.threads.split(",")]
    os.environ["PEERS_CLOCK"] = "cpu" if a.busy else "wall"
    a.rounds = a.rounds or (3 if a.quick else 7)
    a.out = a.out or os.path.join(a.work, "peers.md")
    a.torch = subprocess.run([a.python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0
    return a


def main():
    a = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that stopped processes are ended, too
    work, table = Work(a), Table(a.out)
    version = must(work.torch("version")).strip() if a.torch else "none"
    table.say("# kdc beside its peers\n")
    table.say("%s; load %.1f at the start; %s, ONNX Runtime %s, PyTorch %s;" % (
        machine(), os.getloadavg()[0], must([a.kdc, "--version"]).splitlines()[0], "yes" if a.ort else "none", version))
    table.say("%d rounds (long steps fewer); ratios: median (least to most) of rounds%s." % (
        a.rounds, "; times are processor time" if a.busy else ""))

    def wanted(what):
        return re.search(a.only, what) is not None

    if any(wanted("inference %s %s" % (n, v[0])) for n, v in NETS.items()):
        inference(work, table, wanted)
    steps(work, table, wanted)
    starts(work, table, wanted)
    print("\nwritten to " + a.out, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    finally:
        for engine in list(Engine.alive):
            engine.close()
