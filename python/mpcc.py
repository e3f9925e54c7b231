"""libmpcc from Python: compile a spec, train it, look at its tensors. A thin layer over mpcc/mpcc.h and
mpcc/runtime.h by ctypes; needs nothing but the standard library.

    import mpcc
    image = mpcc.compile("vit.yaml", precision="bf16-mixed")      # bytes, as --emit=image writes them
    with mpcc.Program(image, out_dir="runs/vit") as p:
        p.init()
        p.fit(lambda e: print(e.step, e.loss) if e.logged else None)
        head = numpy.asarray(p["head.weight"])                    # shares memory; torch.from_dlpack too

Every failure raises mpcc.Error: `status` is its number (mpcc/status.h), the text is what the library
said. The library is searched beside this file, in MPCC_LIBRARY, then as the system does.
"""
import ctypes
import ctypes.util
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_bool, c_char_p, c_double, c_int, c_int64,
                    c_size_t, c_uint64, c_void_p, cast, py_object)

__all__ = ["Error", "Program", "Tensor", "compile", "resolve", "version"]


class _Message(Structure):
    _fields_ = [("severity", c_int), ("text", c_char_p), ("json", c_char_p)]


_ON_MESSAGE = CFUNCTYPE(None, c_void_p, POINTER(_Message))
_ON_DUMP = CFUNCTYPE(None, c_void_p, c_char_p, c_char_p)
_WORDS = POINTER(c_char_p)


class _CompilerCallbacks(Structure):
    _fields_ = [("message", _ON_MESSAGE), ("dump", _ON_DUMP), ("user", c_void_p)]


class _CompilerOptions(Structure):
    _fields_ = [
        ("precision", c_char_p), ("define", _WORDS), ("set", _WORDS), ("include", _WORDS),
        ("ndefine", c_int), ("nset", c_int), ("ninclude", c_int), ("warning", _WORDS), ("nwarning", c_int),
        ("max_errors", c_int), ("max_errors_set", c_bool), ("colour", c_bool), ("strict", c_bool),
        ("target", _WORDS), ("ntarget", c_int), ("level", _WORDS), ("nlevel", c_int), ("arch", _WORDS),
        ("narch", c_int), ("own_products", c_bool), ("opt_level", c_int), ("opt_set", c_bool), ("jobs", c_int),
        ("cache_dir", c_char_p), ("no_cache", c_bool), ("print_before", c_char_p), ("print_after", c_char_p),
        ("stop_after", c_char_p), ("time_passes", c_bool), ("check_passes", c_bool), ("no_reuse", c_bool),
        ("memory_bytes", c_uint64), ("instrument", c_char_p), ("host_level_only", c_bool),
        ("all_functions", c_bool), ("precision_from", c_char_p)]


class _Metric(Structure):
    _fields_ = [("name", c_char_p), ("value", c_double), ("classes", c_int), ("matrix", POINTER(c_double))]


class _Event(Structure):
    _fields_ = [
        ("kind", c_int), ("logged", c_bool), ("step", c_int64), ("total_steps", c_int64), ("epoch", c_int64),
        ("total_epochs", c_int64), ("taken", c_int64), ("skipped", c_int64), ("loss", c_double),
        ("grad_norm", c_double), ("scale", c_double), ("nmetric", c_int), ("metric", POINTER(_Metric)),
        ("lr", c_double), ("samples_per_s", c_double), ("data_wait", c_double), ("eta_s", c_double),
        ("memory_bytes", c_int64), ("split", c_char_p), ("path", c_char_p), ("text", c_char_p)]


_ON_LOG = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
_ON_EVENT = CFUNCTYPE(None, c_void_p, POINTER(_Event))
_ON_STOP = CFUNCTYPE(c_int, c_void_p)


class _RunCallbacks(Structure):
    _fields_ = [("log", _ON_LOG), ("event", _ON_EVENT), ("stop", _ON_STOP), ("user", c_void_p)]


class _RunOptions(Structure):
    _fields_ = [
        ("data_dir", c_char_p), ("data", _WORDS), ("ndata", c_int), ("out_dir", c_char_p), ("resume", c_char_p),
        ("reset", _WORDS), ("nreset", c_int), ("weights", c_char_p), ("max_steps", c_int64),
        ("max_epochs", c_int64), ("seed", c_int64), ("log_every", c_int64), ("threads", c_int),
        ("plan_mode", c_bool), ("level", c_char_p), ("device", c_char_p), ("instrument", c_char_p),
        ("decode", c_void_p)]


class _Tensor(Structure):
    _fields_ = [("name", c_char_p), ("dtype", c_int), ("rank", c_int), ("dim", POINTER(c_int64)),
                ("data", c_void_p), ("bytes", c_size_t), ("role", c_char_p), ("attrs", c_char_p)]


def _load():
    here = os.path.dirname(os.path.abspath(__file__))
    candidates = [os.environ.get("MPCC_LIBRARY"), os.path.join(here, "libmpcc.so"),
                  os.path.join(here, *[os.pardir] * 3, "lib", "libmpcc.so.0"), ctypes.util.find_library("mpcc")]
    for path in candidates:
        if path and (os.path.exists(path) or os.sep not in path):
            return ctypes.CDLL(path)
    raise ImportError("libmpcc.so is not found; set MPCC_LIBRARY to its path")


_lib = _load()
_libc = ctypes.CDLL(None)
_libc.free.argtypes = [c_void_p]
_libc.free.restype = None


def _declare(name, result, *arguments):
    f = getattr(_lib, name)
    f.restype, f.argtypes = result, arguments
    return f


_version = _declare("mpcc_version", c_char_p)
_session_create = _declare("mpcc_session_create", c_void_p, POINTER(_CompilerOptions), POINTER(_CompilerCallbacks))
_session_destroy = _declare("mpcc_session_destroy", None, c_void_p)
_compile = _declare("mpcc_compile", c_int, c_void_p, c_char_p, c_char_p, c_size_t, c_int, POINTER(c_void_p),
                    POINTER(c_size_t))
_resolve = _declare("mpcc_resolve", c_int, c_void_p, c_char_p, c_char_p, c_size_t, POINTER(c_void_p),
                    POINTER(c_size_t))
_options_default = _declare("mprt_options_default", None, POINTER(_RunOptions))
_open = _declare("mprt_open", c_int, c_void_p, c_size_t, POINTER(_RunOptions), POINTER(_RunCallbacks),
                 POINTER(c_void_p))
_close = _declare("mprt_close", None, c_void_p)
_init = _declare("mprt_init", c_int, c_void_p)
_load_weights = _declare("mprt_load_weights", c_int, c_void_p, c_char_p, c_bool)
_save_weights = _declare("mprt_save_weights", c_int, c_void_p, c_char_p, c_int)
_save_checkpoint = _declare("mprt_save_checkpoint", c_int, c_void_p, c_char_p)
_resume = _declare("mprt_resume", c_int, c_void_p, c_char_p)
_fit = _declare("mprt_fit", c_int, c_void_p)
_train_batch = _declare("mprt_train_batch", c_int, c_void_p, c_int64, POINTER(c_double))
_run = _declare("mprt_run", c_int, c_void_p, c_char_p)
_metric_count = _declare("mprt_metric_count", c_int, c_void_p)
_evaluate = _declare("mprt_evaluate", c_int, c_void_p, c_char_p, POINTER(c_double), POINTER(_Metric))
_predict = _declare("mprt_predict", c_int, c_void_p, c_char_p, c_char_p)
_find = _declare("mprt_find", c_bool, c_void_p, c_char_p, POINTER(_Tensor))
_tensor_count = _declare("mprt_tensor_count", c_int, c_void_p)
_tensor_at = _declare("mprt_tensor_at", c_bool, c_void_p, c_int, POINTER(_Tensor))

_IMAGE, _IR, _PLAN = 0, 1, 8 # mpcc_output
_WARNING = 1 # mpcc_severity


class Error(Exception):
    """What the library said of a failure; status: the number of mpcc/status.h."""

    def __init__(self, status, text):
        super().__init__(text or "mpcc: status %d" % status)
        self.status = status


def _text(s):
    return None if s is None else os.fsencode(s)


def _words(words):
    return (c_char_p * len(words))(*map(_text, words)), len(words)


def version():
    return _version().decode()


def _source(spec, text):
    if text is None:
        with open(spec, "rb") as f:
            return f.read()
    return text.encode() if isinstance(text, str) else text


def _compiled(spec, text, precision, define, set, warn, call, options):
    said = []

    def on_message(_, message):
        m = message.contents
        said.append((m.severity, m.text.decode(errors="replace")))

    o = _CompilerOptions(precision=_text(precision), host_level_only=True, **options)
    o.define, o.ndefine = _words(["%s=%s" % d for d in define.items()])
    o.set, o.nset = _words(["%s=%s" % s for s in set.items()])
    callbacks = _CompilerCallbacks(message=_ON_MESSAGE(on_message))
    session = _session_create(byref(o), byref(callbacks))
    if not session:
        raise MemoryError
    source, out, size = _source(spec, text), c_void_p(), c_size_t()
    try:
        status = call(session, _text(spec), source, len(source), byref(out), byref(size))
    finally:
        _session_destroy(session)
    if status:
        raise Error(status, "\n".join(t for severity, t in said if severity > _WARNING))
    for severity, t in said:
        if warn and severity == _WARNING:
            warn(t)
    try:
        return ctypes.string_at(out, size.value)
    finally:
        _libc.free(out)


def compile(spec, text=None, *, precision=None, define={}, set={}, cache_dir=None, warn=None, emit="image"):
    """Program image of a spec for this machine's CPU, as bytes; emit: "image", "ir" or "plan", both text.

    spec: path of the file; with `text` only the name that messages carry. define, set: what -D and --set
    of the command give. warn: called with each warning."""
    kind = {"image": _IMAGE, "ir": _IR, "plan": _PLAN}[emit]
    out = _compiled(spec, text, precision, define, set, warn,
                    lambda s, path, t, n, o, b: _compile(s, path, t, n, kind, o, b), {"cache_dir": _text(cache_dir)})
    return out if emit == "image" else out.decode()


def resolve(spec, text=None, *, precision=None, define={}, set={}):
    """YAML of the effective spec, every default written out."""
    return _compiled(spec, text, precision, define, set, None, _resolve, {}).decode()


# Rows of mpcc/dtype.def, in its order: name, typestr of NumPy and code of DLPack (None: it has none), bits
_DTYPES = [("f64", "<f8", 2, 64), ("f32", "<f4", 2, 32), ("bf16", None, 4, 16), ("f16", "<f2", 2, 16),
           ("e4m3", None, 10, 8), ("e5m2", None, 12, 8), ("i64", "<i8", 0, 64), ("i32", "<i4", 0, 32),
           ("u8", "|u1", 1, 8), ("b1", "|b1", 6, 8), ("e8m0", None, 14, 8), ("e2m1", None, None, 8)]


class _DLTensor(Structure): # dlpack.h
    _fields_ = [("data", c_void_p), ("device_type", c_int), ("device_id", c_int), ("ndim", c_int),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)), ("byte_offset", c_uint64)]


class _DLManagedTensor(Structure):
    pass


_DELETER = CFUNCTYPE(None, POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = [("tensor", _DLTensor), ("context", c_void_p), ("deleter", _DELETER)]
_lent = {} # what consumers of DLPack still hold, by address


@_DELETER
def _give_back(managed):
    _lent.pop(ctypes.addressof(managed.contents), None)


_capsule = {name: ctypes.pythonapi[name] for name in ("PyCapsule_New", "PyCapsule_IsValid", "PyCapsule_GetPointer")}
_DESTRUCTOR = CFUNCTYPE(None, c_void_p)
_capsule["PyCapsule_New"].restype = py_object
_capsule["PyCapsule_New"].argtypes = [c_void_p, c_char_p, _DESTRUCTOR]
_capsule["PyCapsule_IsValid"].argtypes = [c_void_p, c_char_p]
_capsule["PyCapsule_GetPointer"].restype = c_void_p
_capsule["PyCapsule_GetPointer"].argtypes = [c_void_p, c_char_p]


@_DESTRUCTOR
def _not_taken(capsule):
    """Nobody took what the capsule holds: a taken one has another name."""
    if _capsule["PyCapsule_IsValid"](capsule, b"dltensor"):
        _lent.pop(_capsule["PyCapsule_GetPointer"](capsule, b"dltensor"), None)


class Tensor:
    """A tensor of a program: memory of the program's, row-major; on a GPU the host's copy of it.

    numpy.asarray(t), torch.from_dlpack(t) and memoryview(t.buffer()) share that memory, which lives as long
    as the program does: close the program last. On a GPU ask anew before each look and each batch: asking
    is what brings values here, and what tells that they may be written. Written weights take effect with
    program.run("refresh")."""

    def __init__(self, program, t):
        self._program = program
        self.name, self.role = t.name.decode(), t.role.decode()
        self.shape = tuple(t.dim[i] for i in range(t.rank))
        self.nbytes = t.bytes
        self.dtype, self._typestr, self._code, self._bits = _DTYPES[t.dtype]

    def __repr__(self):
        return "mpcc.Tensor(%r, %s, %s)" % (self.name, self.dtype, list(self.shape))

    def _address(self):
        t = _Tensor()
        if not self._program._p or not _find(self._program._p, self.name.encode(), byref(t)):
            raise ValueError("the program of tensor %r is closed" % self.name)
        return t.data

    def buffer(self):
        """Its bytes, writable."""
        memory = (ctypes.c_uint8 * self.nbytes).from_address(self._address())
        memory.owner = self._program
        return memory

    @property
    def __array_interface__(self):
        if not self._typestr:
            raise AttributeError
        return {"version": 3, "shape": self.shape, "typestr": self._typestr, "data": (self._address(), False)}

    def __array__(self, *_, **__): # where there is no interface: else NumPy would make an array of one object
        raise TypeError("NumPy has no %s; use torch.from_dlpack or buffer()" % self.dtype)

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, stream=None, **_):
        if self._code is None:
            raise BufferError("DLPack has no " + self.dtype)
        shape = (c_int64 * max(len(self.shape), 1))(*self.shape)
        managed = _DLManagedTensor(
            _DLTensor(self._address(), 1, 0, len(self.shape), self._code, self._bits, 1, shape, None, 0),
            None, _give_back)
        _lent[ctypes.addressof(managed)] = managed, shape, self._program
        return _capsule["PyCapsule_New"](ctypes.addressof(managed), b"dltensor", _not_taken)


class Program:
    """A program image, loaded. Options as those of a built program; mpcc/runtime.h says what each is."""

    def __init__(self, image, *, data_dir=None, data=(), out_dir=None, resume=None, weights=None, max_steps=-1,
                 max_epochs=-1, seed=-1, log_every=-1, threads=0, device=None, instrument=None, log=None):
        """log: called with each line that the runtime says, warnings and notes."""
        self._p, self._said, self._log, self._raised = None, [], log, None
        # the image is used in place, at a multiple of 64 bytes
        self._memory = ctypes.create_string_buffer(len(image) + 63)
        at = (ctypes.addressof(self._memory) + 63) // 64 * 64
        ctypes.memmove(at, bytes(image), len(image))
        o = _RunOptions()
        _options_default(byref(o))
        o.data_dir, o.out_dir, o.resume, o.weights = map(_text, (data_dir, out_dir, resume, weights))
        o.device, o.instrument = _text(device), _text(instrument)
        o.data, o.ndata = _words(list(data))
        o.max_steps, o.max_epochs, o.seed, o.log_every, o.threads = max_steps, max_epochs, seed, log_every, threads
        o.decode = cast(_lib.mprt_decode_image, c_void_p)
        self._on_event = self._stop = None
        self._callbacks = _RunCallbacks(log=_ON_LOG(self._logged), event=_ON_EVENT(self._event),
                                        stop=_ON_STOP(self._stopped))
        self._options = o
        p = c_void_p()
        self._check(_open(at, len(image), byref(o), byref(self._callbacks), byref(p)))
        self._p = p

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Frees it, and with it the memory of its tensors."""
        if self._p:
            _close(self._p)
        self._p = None

    def _logged(self, _, level, text):
        text = text.decode(errors="replace")
        if level == 0:
            self._said.append(text)
        elif self._log:
            self._log(text)

    def _guarded(self, otherwise, f, *arguments):
        """An exception of a callback stops the run and is raised behind it."""
        try:
            return f(*arguments)
        except BaseException as e:
            self._raised = e
            return otherwise

    def _event(self, _, event):
        if self._on_event and not self._raised:
            self._guarded(None, self._on_event, event.contents)

    def _stopped(self, _):
        if self._raised:
            return 3
        return int(self._guarded(3, self._stop)) if self._stop else 0

    def _check(self, status):
        said, self._said = self._said, []
        raised, self._raised = self._raised, None
        if raised:
            raise raised
        if status:
            raise Error(status, "\n".join(said))

    def _call(self, f, *arguments):
        if not self._p:
            raise ValueError("the program is closed")
        self._check(f(self._p, *arguments))

    def init(self):
        """First weights, from the seed."""
        self._call(_init)

    def load_weights(self, path, strict=True):
        self._call(_load_weights, _text(path), strict)

    def save_weights(self, path, dtype="f32"):
        self._call(_save_weights, _text(path), [d[0] for d in _DTYPES].index(dtype))

    def save_checkpoint(self, folder):
        self._call(_save_checkpoint, _text(folder))

    def resume(self, folder):
        self._call(_resume, _text(folder))

    def fit(self, on_event=None, stop=None):
        """The training loop of the spec. on_event: called with mprt_event's fields (kind, step, loss, lr,
        ...), valid during the call; stop: polled between steps, as mprt_callbacks.stop."""
        self._on_event, self._stop = on_event, stop
        try:
            self._call(_fit)
        finally:
            self._on_event = self._stop = None

    def train_batch(self, samples):
        """One step on the batch in the io tensors, of which `samples` are real; their mean loss."""
        loss = c_double()
        self._call(_train_batch, samples, byref(loss))
        return loss.value

    def run(self, function):
        """One function of the image: "predict", "eval_step", ..."""
        self._call(_run, function.encode())

    def evaluate(self, split="val"):
        """(loss, {metric: value}) over a split of the spec's data."""
        n, loss = _metric_count(self._p), c_double()
        metrics = (_Metric * max(n, 1))()
        self._call(_evaluate, split.encode(), byref(loss), metrics)
        return loss.value, {m.name.decode(): m.value for m in metrics[:n]}

    def predict(self, split, path):
        """Predictions over a split, written to a .npy file."""
        self._call(_predict, split.encode(), _text(path))

    def __getitem__(self, name):
        t = _Tensor()
        if not self._p or not _find(self._p, name.encode(), byref(t)):
            raise KeyError(name)
        return Tensor(self, t)

    def __iter__(self):
        """Every tensor: weights, optimizer state, inputs, outputs."""
        t = _Tensor()
        for i in range(_tensor_count(self._p)):
            if _tensor_at(self._p, i, byref(t)):
                yield Tensor(self, t)
