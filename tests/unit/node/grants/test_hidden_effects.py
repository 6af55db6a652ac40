"""Ways to hide in a plan what it does; the reading aid names the line of each."""

from __future__ import annotations

import pytest

from fedjob.node.grants.plan_review import own_remarks, visible

HONEST = '''\
"""A plan for the ward."""

import numpy as np
import torch
from torch import nn

from fedjob import TorchPlan


class Ward(TorchPlan):
    extra_args = ("width",)

    def init_model(self, model_args):
        return nn.Sequential(nn.Linear(model_args["width"], 8), nn.ReLU(), nn.Linear(8, 1))

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        frame = dataset.frame().dropna()
        inputs = frame[["age", "chol"]].to_numpy(np.float32)
        return inputs, frame["sick"].to_numpy(np.float32)[:, None]

    def training_step(self, model, batch):
        inputs, targets = batch
        model.eval()
        for layer in model.modules():
            size = getattr(layer, "in_features", None)
        return nn.functional.mse_loss(model(inputs), targets)
'''

WAYS = {
    "exec under another name": "run = exec\nrun('1')",
    "exec in a list": "[exec][0]('1')",
    "exec in a map": "{'a': exec}['a']('1')",
    "exec by a walrus": "(run := exec)('1')",
    "exec as a default": "def go(text, run=exec):\n    run(text)",
    "exec as a decorator": "@exec\ndef go():\n    return '1'",
    "exec handed to map": "list(map(exec, ['1']))",
    "exec from builtins": "from builtins import exec as run\nrun('1')",
    "builtins by subscript": "__builtins__['ev' + 'al']('1')",
    "builtins by attribute": "__builtins__.eval('1')",
    "builtins of a function": "(lambda: 0).__globals__['__builtins__']",
    "builtins of a module": "import numpy\nnumpy.__builtins__['eval']",
    "globals by name": "globals()['ope' + 'n']('x')",
    "vars of a module": "import numpy\nvars(numpy)['x']",
    "locals": "locals()['x']",
    "eval with text": "import pandas\npandas.eval('1')",
    "eval of a frame": "frame.eval('@x')",
    "compile": "compile('1', 'x', 'exec')",
    "getattr with a sum": "getattr(x, 'sys' + 'tem')('1')",
    "getattr of a dunder": "getattr(x, '__class__')",
    "getattr of system": "getattr(x, 'system')('1')",
    "getattr under another name": "get = getattr\nget(x, 'y')",
    "attrgetter": "from operator import attrgetter\nattrgetter('system')(x)",
    "methodcaller": "import operator as o\no.methodcaller('system', '1')(x)",
    "a format that reaches": "'{0.__class__}'.format(x)",
    "a format by subscript": "'{0[__class__]}'.format(x)",
    "subclasses": "().__class__.__base__.__subclasses__()",
    "mro": "type(x).__mro__[1]",
    "dict of a module": "import numpy\nnumpy.__dict__['x']",
    "reduce": "x.__reduce_ex__(2)",
    "the loader": "__loader__.load_module('os')",
    "the spec": "__spec__.loader",
    "import by name": "__import__('os').system('1')",
    "importlib": "import importlib\nimportlib.import_module('o' + 's')",
    "pkgutil": "import pkgutil\npkgutil.resolve_name('os:system')",
    "runpy": "import runpy\nrunpy.run_path('x')",
    "sys.modules": "import sys\nsys.modules['os'].system('1')",
    "os through numpy": "import numpy\nnumpy.os.system('1')",
    "sys through another module": "import dataclasses\ndataclasses.sys.modules['os']",
    "os from another module": "from logging import os as x\nx.remove('y')",
    "system by name": "from os import system as go\ngo('1')",
    "a frame of the caller": "import sys\nsys._getframe(1).f_globals",
    "a frame of a generator": "(i for i in x).gi_frame.f_back",
    "a frame of an error": "error.__traceback__.tb_frame",
    "gc": "import gc\ngc.get_objects()",
    "inspect": "import inspect\ninspect.stack()",
    "ctypes": "import ctypes\nctypes.CDLL(None).system(b'1')",
    "ctypes through numpy": "import numpy\nnumpy.ctypeslib.ctypes",
    "cffi": "from cffi import FFI",
    "machine code through torch": "from torch.utils import cpp_extension",
    "a library through torch": "import torch\ntorch.ops.load_library('x')",
    "mmap": "import mmap",
    "a thread": "from threading import Thread\nThread(target=f).start()",
    "a timer": "import threading\nthreading.Timer(9, f).start()",
    "a low thread": "import _thread\n_thread.start_new_thread(f, ())",
    "a pool": "from concurrent.futures import ThreadPoolExecutor as P\nP().submit(f)",
    "a process": "from torch import multiprocessing as m\nm.Process(target=f).start()",
    "a fork": "from os import fork\nfork()",
    "atexit": "import atexit\natexit.register(f)",
    "atexit as a decorator": "from atexit import register\n@register\ndef f():\n    pass",
    "at the end of an object": "class A:\n    def __del__(self):\n        f()",
    "weakref": "from weakref import finalize\nfinalize(x, f)",
    "a trace": "import sys\nsys.settrace(f)",
    "a signal": "import signal\nsignal.alarm(1)",
    "a hook of a layer": "layer.register_forward_hook(f)",
    "a metaclass": "class A(metaclass=M):\n    pass",
    "subclasses that run code": "class A:\n    def __init_subclass__(cls):\n        f()",
    "attributes that run code": "class A:\n    def __getattr__(self, name):\n        f()",
    "a class at run time": "type('A', (), {})",
    "a function at run time": "import types\ntypes.FunctionType(c, {})",
    "a patched module": "import numpy\nnumpy.mean = f",
    "a patched module by another name": "import numpy\nn = numpy\nn.mean = f",
    "a patched class": "from fedjob import TorchPlan\nTorchPlan.save = f",
    "a patched class of an object": "x.__class__.save = f",
    "a patched type": "type(x).save = f",
    "a patched part": "import torch\ntorch.nn.Linear.forward = f",
    "a patched module by setattr": "import numpy\nsetattr(numpy, 'mean', f)",
    "a patched map of a module": "import numpy\nnumpy.core.x['y'] = f",
    "a name with another meaning": "open = f",
    "a global": "def go():\n    global level\n    level = 1",
    "a star": "from numpy import *",
    "numpy.fromfile": "import numpy\nnumpy.fromfile('/etc/passwd')",
    "numpy.fromfile by name": "from numpy import fromfile as f\nf('x')",
    "numpy.memmap": "import numpy\nnumpy.memmap('x')",
    "numpy.loadtxt": "import numpy\nnumpy.loadtxt('x')",
    "numpy.tofile": "x.tofile('y')",
    "numpy.DataSource": "import numpy\nnumpy.DataSource().open('x')",
    "pandas.read_csv": "import pandas\npandas.read_csv('https://x.example')",
    "pandas.read_csv with a made address": "import pandas\npandas.read_csv(a + b)",
    "pandas.read_json": "import pandas as p\np.read_json(x)",
    "pandas.read_pickle": "import pandas\npandas.read_pickle('x')",
    "pandas.to_csv": "frame.to_csv('x')",
    "pandas.HDFStore": "import pandas\npandas.HDFStore('x')",
    "pickle": "import pickle\npickle.loads(x)",
    "pickle through another module": "from pandas.compat import pickle_compat",
    "dill": "import dill",
    "joblib": "import joblib\njoblib.load('x')",
    "marshal": "import marshal",
    "shelve": "import shelve",
    "torch.load": "import torch\ntorch.load('x')",
    "torch.save": "import torch\ntorch.save(x, 'y')",
    "torch.hub": "import torch.hub",
    "torch.distributed": "import torch.distributed as d",
    "a download": "Data('x', download=True)",
    "a data set from elsewhere": "from sklearn import datasets\ndatasets.fetch_openml('x')",
    "an address": "URL = 'https://x.example/a'",
    "a path": "KEY = '/etc/keys/ed25519'",
    "a path upwards": "KEY = '../keys'",
    "pathlib": "from pathlib import Path\nPath('x').read_text()",
    "io": "import io\nio.open('x')",
    "codecs": "import codecs\ncodecs.open('x')",
    "base64": "import base64\nbase64.b64decode(x)",
    "a log that is sent": "import logging.handlers\nlogging.handlers.SocketHandler('x', 1)",
    "the environment": "import os\nos.environ['x']",
    "a request": "from urllib.request import urlopen as u\nu(x)",
    "what an expression chooses": "table[0](x)",
    "a name as a text": "NAME = '__subclasses__'",
    "an effect as a text": "NAME = 'exec'",
    "code behind a gap": "x = 1" + " " * 95 + "; y = 2",
    "code behind many gaps": "x = 1 ;" + (" " * 95 + "z = 2 ;") * 3 + " y = 2",
    "code behind tabs": "x = 1" + "\t" * 9 + "; y = 2",
    "code far to the right": "if x:\n" + " " * 90 + "y = 2",
    "a long line": "x = '" + "a" * 300 + "'; y = 2",
    "a lookalike in a text": "LEVEL = '\u0430dmin'",
}


def _risks(text: str) -> set[int]:
    return {remark.line for remark in own_remarks(text) if remark.kind == "risk"}


def test_there_are_more_than_a_hundred_ways() -> None:
    assert len(WAYS) > 120
    assert len(set(WAYS.values())) == len(WAYS)


@pytest.mark.parametrize("way", list(WAYS))
def test_the_reading_aid_names_a_way_to_hide_an_effect(way: str) -> None:
    text = HONEST + "\n\n" + WAYS[way] + "\n"
    assert {line for line in _risks(text) if line > HONEST.count("\n")}, own_remarks(text)


def test_an_honest_plan_has_no_risk_named() -> None:
    assert _risks(HONEST) == set()


def test_text_that_is_no_python_is_named_as_such() -> None:
    assert _risks("def (:\n") == {1}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("x = 1", "x = 1"),
        ("    x = 1", "    x = 1"),
        ("\tx = 1", "\u2192       x = 1"),
        ("x = 1" + " " * 20 + "; y", "x = 1" + "\u00b7" * 20 + "; y"),
        (" " * 50 + "y", "\u00b7" * 50 + "y"),
        ("a\x0cb", "a<U+000C>b"),
        ("a\x1b[8mb", "a<U+001B>[8mb"),
        ("a\u202eb", "a<U+202E>b"),
    ],
)
def test_what_could_hide_in_a_line_is_drawn(line: str, shown: str) -> None:
    assert visible(line) == shown
