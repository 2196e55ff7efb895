#!/usr/bin/env python3
"""Writes small files of every container that is read or named, and what NumPy and pandas read of them.

Needs numpy, pandas, pyarrow, safetensors, zstandard, h5py, scipy, joblib and openpyxl. Run it in this folder: it writes
files/ and expected.json, where `values` are little-endian f64 in base64, row by row.
"""

import base64
import bz2
import decimal
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import zipfile

import h5py
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import safetensors.numpy
import scipy.io
import zstandard

shutil.rmtree("files", ignore_errors=True)
os.mkdir("files")
cases = []


def at(name):
    return os.path.join("files", name)


def read(name, values, names=None, **options):
    values = np.ascontiguousarray(np.asarray(values, dtype="<f8"))
    assert values.ndim == 2
    case = {"file": name, "columns": values.shape[1], "values": base64.b64encode(values.tobytes()).decode(), **options}
    if names is not None:
        case["names"] = list(names)
    cases.append(case)


def refused(name, *texts, **options):
    cases.append({"file": name, "refused": list(texts), **options})


def write(name, data):
    with open(at(name), "wb") as file:
        file.write(data)


random = np.random.default_rng(7)
rows = random.normal(size=(9, 4)) * 10.0 ** random.integers(-20, 20, size=(9, 4))
rows[0] = [1.7e9 + 0.25, 2024000001, 0.1, -1e300]
small = random.integers(0, 100, size=(9, 4))

# NumPy
for dtype in ["<f8", ">f8", "<f4", ">f4", "<f2", "<i8", ">i8", "<i4", "<i2", "|i1", "<u8", "<u4", ">u2", "|u1", "|b1"]:
    array = (small % 2 if dtype == "|b1" else small if dtype[1] in "iu" else rows if dtype[2] == "8" else small / 7).astype(dtype)
    for order in "CF":
        name = f"array-{dtype[1:]}-{'le' if dtype[0] != '>' else 'be'}-{order}.npy"
        np.save(at(name), np.asarray(array, order=order))
        read(name, array.astype("f8"))
cube = random.normal(size=(5, 2, 3, 4))
for order in "CF":
    np.save(at(f"four-{order}.npy"), np.asarray(cube, order=order))
    read(f"four-{order}.npy", cube.reshape(5, -1), note="flattened")
    np.save(at(f"three-{order}.npy"), np.asarray(cube[:, 0], order=order))
    read(f"three-{order}.npy", cube[:, 0].reshape(5, -1), note="flattened")
for version in [(1, 0), (2, 0), (3, 0)]:
    with open(at(f"version-{version[0]}.npy"), "wb") as file:
        np.lib.format.write_array(file, rows, version=version)
    read(f"version-{version[0]}.npy", rows)
header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9L, 4L), }"
header += b" " * (117 - len(header)) + b"\n"
write("python-2.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + rows.tobytes())
read("python-2.npy", rows)
np.save(at("one.npy"), rows[:, 0])
refused("one.npy", "shape (9,)", "reshape(-1, 1)")
np.save(at("zero.npy"), np.float64(1))
refused("zero.npy", "single number")
np.save(at("empty.npy"), np.zeros((0, 4)))
refused("empty.npy", "0 x 4")
for name, array, texts in [
    ("structured", np.zeros(9, dtype=[("temp", "<f4"), ("shape", "<f4")]), ["named fields", "structured_to_unstructured"]),
    ("object", np.array([[1, None]], dtype=object), ["Python objects", "allow_pickle"]),
    ("complex", rows.astype("c16"), ["complex", "a.imag"]),
    ("text", np.array([["1", "2"]]), ["texts", "astype('f8')"]),
    ("long", rows.astype("g"), ["floats of another size", "astype('f8')"]),
    ("time", np.array([["2024-01-01"]], dtype="M8[s]"), ["dates or times"]),
    ("raw", np.zeros((2, 2), dtype="V3"), ["raw bytes"]),
]:
    np.save(at(f"{name}.npy"), array)
    refused(f"{name}.npy", *texts)

# Archives of arrays
np.savez(at("only.npz"), rows)
read("only.npz", rows)
np.savez_compressed(at("packed.npz"), rows=rows)
read("packed.npz", rows)
np.savez(at("usual.npz"), X=rows, other=small, y=small[:, 0], labels=np.array(["a", "b"]))
read("usual.npz", rows, note="X")
np.savez_compressed(at("several.npz"), x_train=rows, x_test=small, y_train=small[:, 0])
refused("several.npz", "--array", "x_train", "x_test", "y_train", "(9,)")
read("several.npz", rows, array="x_train")
read("several.npz", small, array="x_test")
refused("several.npz", "no array \"z\"", "x_train", array="z")
refused("several.npz", "shape (9,)", array="y_train")
for name, save in [("stored", np.savez), ("deflated", np.savez_compressed)]:
    save(at(f"column-major-{name}.npz"), np.asfortranarray(rows), small[:, 0])
    read(f"column-major-{name}.npz", rows)
with np.load(at("only.npz")) as again:
    assert np.array_equal(again["arr_0"], rows)

# Vectors
single = rows.clip(-1e30, 1e30).astype("<f4")
def vecs(array, dtype):
    array = array.astype(dtype)
    return b"".join(struct.pack("<i", array.shape[1]) + row.tobytes() for row in array)
write("x.fvecs", vecs(single, "<f4"))
read("x.fvecs", single)
write("x.bvecs", vecs(small, "u1"))
read("x.bvecs", small)
write("x.ivecs", vecs(small - 50, "<i4"))
read("x.ivecs", small - 50)
wide = random.normal(size=(3, 256)).astype("<f4")
write("wide.fvecs", vecs(wide, "<f4"))
read("wide.fvecs", wide)
write("x.fvecs.gz", gzip.compress(vecs(single, "<f4")))
read("x.fvecs.gz", single)
for name, array in [("fbin", single), ("u8bin", small.astype("u1")), ("i8bin", (small - 50).astype("i1"))]:
    write(f"x.{name}", struct.pack("<II", *array.shape) + array.tobytes())
    read(f"x.{name}", array)
write("torn.fvecs", vecs(single, "<f4")[:-3])
refused("torn.fvecs", "row 9", "ends within it")
write("lying.fvecs", vecs(single, "<f4") + vecs(single[:, :3], "<f4"))
refused("lying.fvecs", "row 10", "length 3", "4 as the first row")

# safetensors
safetensors.numpy.save_file({"x": rows}, at("only.safetensors"), metadata={"format": "np"})
read("only.safetensors", rows)
safetensors.numpy.save_file({"a": small.astype("i4"), "b": rows, "bias": small[0]}, at("several.safetensors"))
refused("several.safetensors", "--array", "\"a\"", "\"b\"", "F64 (9, 4)")
read("several.safetensors", rows, array="b")
read("several.safetensors", small, array="a")
safetensors.numpy.save_file({"e": cube.astype("f2"), "mask": np.zeros(3, dtype=bool)}, at("half.safetensors"))
read("half.safetensors", cube.astype("f2").astype("f8").reshape(5, -1), note="flattened")
brain = (single.view("<u4") >> 16).astype("<u2")
header = json.dumps({"w": {"dtype": "BF16", "shape": list(brain.shape), "data_offsets": [0, brain.nbytes]}}).encode()
write("brain.safetensors", struct.pack("<Q", len(header)) + header + brain.tobytes())
read("brain.safetensors", (brain.astype("<u4") << 16).view("<f4"))

# JSON
frame = pd.DataFrame(rows, columns=["a", "b b", "ç", "d"])
frame.to_json(at("records.jsonl"), orient="records", lines=True, double_precision=15)
read("records.jsonl", pd.read_json(at("records.jsonl"), orient="records", lines=True, precise_float=True).values, frame.columns)
frame.to_json(at("records.json"), orient="records", double_precision=15, indent=2)
read("records.json", pd.read_json(at("records.json"), precise_float=True).values, frame.columns)
write("arrays.jsonl", "".join(json.dumps(row) + "\n" for row in rows.tolist()).encode())
read("arrays.jsonl", rows)
write("arrays.json", json.dumps(rows.tolist()).encode())
read("arrays.json", rows)
write("one-row.jsonl", json.dumps(rows[0].tolist()).encode())
read("one-row.jsonl", rows[:1])
gaps = rows.copy()
gaps[2, 1] = gaps[5, 0] = gaps[8, 3] = np.nan
write("gaps.jsonl", "".join(json.dumps(row) + "\n" for row in gaps.tolist()).encode())
read("gaps.jsonl", gaps, missing_values=True)
refused("gaps.jsonl", "line 3", "column 2", "unless values may be missing")
pd.DataFrame(gaps, columns=list("abcd")).to_json(at("gaps.json"), orient="records", double_precision=15)
read("gaps.json", pd.read_json(at("gaps.json"), precise_float=True).values, "abcd", missing_values=True)
lines = [{"id": f"w{i}", "n": i, "embedding": row} for i, row in enumerate(rows.tolist())]
write("embeddings.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
refused("embeddings.jsonl", "line 1", "column id is \"w0\"", "--drop-columns")
names = [f"embedding[{i}]" for i in range(4)]
read("embeddings.jsonl", rows, names, columns_chosen=["embedding"])
read("embeddings.jsonl", np.hstack([np.arange(9)[:, None], rows]), ["n", *names], columns_dropped=["id"])
frame.to_json(at("by-columns.json"))
refused("by-columns.json", "a whole table", "orient")
frame.to_json(at("split.json"), orient="split")
refused("split.json", "a whole table", "orient")
write("keys.jsonl", b'{"a": 1, "b": 2}\n{"b": 4, "a": 3}\n{"a": 5, "b": true}\n')
read("keys.jsonl", [[1, 2], [3, 4], [5, 1]], "ab")
write("fewer.jsonl", b'{"a": 1, "b": 2}\n{"b": 4}\n')
read("fewer.jsonl", [[1, 2], [np.nan, 4]], "ab", missing_values=True)
refused("fewer.jsonl", "line 2", "key \"a\" is not there")
write("more.jsonl", b'{"a": 1}\n{"a": 3, "c": 5}\n')
refused("more.jsonl", "line 2", "key \"c\"")
read("more.jsonl", [[1], [3]], "a", columns_chosen=["a"])
write("ragged.jsonl", b"[1, 2]\n\n[3]\n")
refused("ragged.jsonl", "line 3", "1 numbers", "2 as before")
write("torn.json", b"[[1, 2], [3, 4]")
refused("torn.json", "no end")
write("torn.jsonl", b"[1, 2]\n[3, ")
refused("torn.jsonl", "line 2", "ends within a value")
write("infinite.jsonl", b"[1, Infinity]\n")
refused("infinite.jsonl", "line 1", "Infinity")

# Word vectors
words = ["the", "of", ". .", "2000", "na", "ö", "a", "b", "c"]
text = [" ".join([word, *(f"{value:.5f}" for value in row)]) for word, row in zip(words, small / 7)]
numbers = np.array([[float(f"{value:.5f}") for value in row] for row in small / 7])
write("glove.txt", "\n".join([text[0], text[1], *text[2:]]).encode() + b"\n")
read("glove.txt", numbers, note="word")
write("word2vec.txt", ("9 4\n" + " \n".join(text) + " \n").encode())
read("word2vec.txt", numbers, note="word")
write("word2vec.bin", b"9 4\n" + b"".join(w.encode().replace(b" ", b"_") + b" " + row.tobytes() + b"\n" for w, row in zip(words, single)))
read("word2vec.bin", single, note="word")
write("short.txt", ("10 4\n" + "\n".join(text) + "\n").encode())
refused("short.txt", "ends after 9 rows", "10")

# Packed
plain = frame.rename(columns={"b b": "b", "ç": "c"}).to_csv(index=False).encode()
table = pd.read_csv(io.BytesIO(plain))
pack = {
    "gz": gzip.compress(plain, mtime=0),
    "zst": zstandard.compress(plain),
    "bz2": bz2.compress(plain),
    "xz": lzma.compress(plain),
    "double.gz": gzip.compress(gzip.compress(plain, mtime=0), mtime=0),
}
for ending, data in pack.items():
    write(f"table.csv.{ending}", data)
    read(f"table.csv.{ending}", table.values, "abcd")
    write(f"torn.csv.{ending}", data[: len(data) * 2 // 3])
    refused(f"torn.csv.{ending}")
write("two-parts.csv.gz", gzip.compress(plain[:100], mtime=0) + gzip.compress(plain[100:], mtime=0))
read("two-parts.csv.gz", table.values, "abcd")
write("two-parts.csv.zst", zstandard.compress(plain[:100]) + zstandard.compress(plain[100:]))
read("two-parts.csv.zst", table.values, "abcd")
write("two-parts.csv.bz2", bz2.compress(plain[:100]) + bz2.compress(plain[100:]))
read("two-parts.csv.bz2", table.values, "abcd")
write("two-parts.csv.xz", lzma.compress(plain[:100]) + lzma.compress(plain[100:]))
read("two-parts.csv.xz", table.values, "abcd")
stream = io.BytesIO()
np.save(stream, np.asfortranarray(rows))
write("array.npy.xz", lzma.compress(stream.getvalue()))
read("array.npy.xz", rows)
def archive(name, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(at(name), "w", method) as file:
        for inner, data in files.items():
            file.writestr(zipfile.ZipInfo(inner, (2024, 1, 1, 0, 0, 0)), data, method)
archive("table.zip", {"inner/table.csv": plain, "__MACOSX/._table.csv": b"x"})
read("table.zip", table.values, "abcd", note="only file")
archive("stored.zip", {"x.npy": stream.getvalue()}, zipfile.ZIP_STORED)
read("stored.zip", rows)
archive("two.zip", {"a.csv": plain, "b.csv": plain})
refused("two.zip", "2 files", "a.csv, b.csv")

# Arrow
lists = pa.array(rows.tolist(), pa.list_(pa.float64()))
fixed = pa.array(rows.tolist(), pa.list_(pa.float64(), 4))
half = (small / 7).astype("f2")
columns = {
    "whole": pa.array(small[:, 0], pa.int16()),
    "flag": pa.array((small[:, 1] % 2).astype(bool)),
    "half": pa.array(half[:, 2]),
    "list": lists,
    "fixed": fixed,
    "flags": pa.array((small % 2).astype(bool).tolist(), pa.list_(pa.bool_(), 4)),
    "halves": pa.FixedSizeListArray.from_arrays(pa.array(half.ravel()), 4),
}
arrow = pa.table(columns)
values = np.hstack([small[:, :1], small[:, 1:2] % 2, half[:, 2:3], rows, rows, small % 2, half])
names = ["whole", "flag", "half"] + [f"{name}[{i}]" for name in ["list", "fixed", "flags", "halves"] for i in range(4)]
pq.write_table(arrow, at("lists.parquet"))
pa.feather.write_feather(arrow, at("lists.feather"))
with pa.ipc.new_stream(at("lists.arrows"), arrow.schema) as out:
    out.write_table(arrow)
for name in ["lists.parquet", "lists.feather", "lists.arrows"]:
    read(name, values, names)
write("lists.parquet.gz", gzip.compress(open(at("lists.parquet"), "rb").read(), mtime=0))
read("lists.parquet.gz", values, names)
frame.to_parquet(at("pandas.parquet"))
read("pandas.parquet", pd.read_parquet(at("pandas.parquet")).values, frame.columns)
nulls = pa.table({"a": pa.array([1, None, 3]), "b": pa.array([True, None, False]), "c": pa.array([None, 0.5, np.nan])})
pq.write_table(nulls, at("nulls.parquet"))
read("nulls.parquet", [[1, 1, np.nan], [np.nan, np.nan, 0.5], [3, 0, np.nan]], "abc", missing_values=True)
refused("nulls.parquet", "null", "a value in every row")
moments = pd.to_datetime(["2024-01-01T00:00:00.25", "1969-12-31T23:59:59", "2030-06-01"], format="ISO8601")
times = pa.table({
    "t": pa.array(moments, pa.timestamp("ms")),
    "day": pa.array([d.date() for d in moments], pa.date32()),
    "money": pa.array([decimal.Decimal("1.25"), decimal.Decimal("-3.10"), decimal.Decimal("100.00")], pa.decimal128(9, 2)),
    "kind": pa.array([3, 5, 3]).dictionary_encode(),
})
stamps = [[m.timestamp(), (m.date().toordinal() - 719163) * 86400, money, kind] for m, money, kind in zip(moments, [1.25, -3.1, 100], [3, 5, 3])]
pq.write_table(times, at("times.parquet"))
pa.feather.write_feather(times, at("times.feather"))
for name in ["times.parquet", "times.feather"]:
    read(name, stamps, ["t", "day", "money", "kind"], note="seconds since 1970")
texts = pa.table({"name": ["a", "b"], "x": [1.0, 2.0]})
pq.write_table(texts, at("texts.parquet"))
refused("texts.parquet", "column name", "text", "leave it out")
read("texts.parquet", [[1], [2]], ["x"], columns_dropped=["name"])
pa.feather.write_feather(pd.DataFrame({"a": [1.0, 2.0]}), at("old.feather"), version=1)
refused("old.feather", "Feather of version 1", "pyarrow")
pa.orc.write_table(pa.table({"a": [1.0, 2.0]}), at("x.orc"))
refused("x.orc", "ORC", "pyarrow.orc")

# Named for what they are
with h5py.File(at("x.h5"), "w") as file:
    file["x"] = rows
refused("x.h5", "HDF5", "h5py.File('x.h5')")
shutil.copy(at("x.h5"), at("unnamed"))
refused("unnamed", "HDF5")
write("x.pkl", pickle.dumps(frame))
refused("x.pkl", "pickle", "read_pickle('x.pkl')")
joblib.dump(rows, at("x.joblib"))
refused("x.joblib", "joblib.load")
scipy.io.savemat(at("x.mat"), {"x": rows})
refused("x.mat", "MATLAB", "loadmat")
frame.to_excel(at("x.xlsx"))
refused("x.xlsx", "Excel", "read_excel('x.xlsx')")
archive("x.pt", {"archive/data.pkl": b"\x80\x02.", "archive/version": b"3\n"})
refused("x.pt", "PyTorch", "torch.load('x.pt'")
write("x.arff", b"% a comment\n@relation iris\n@attribute a numeric\n@data\n1\n")
refused("x.arff", "ARFF", "loadarff")
write("libsvm.txt", b"+1 1:0.5 7:1\n-1 2:0.25\n")
refused("libsvm.txt", "libsvm", "load_svmlight_file")
write("x.html", b"<!DOCTYPE html><table><tr><td>1</td></tr></table>")
refused("x.html", "HTML", "read_html")
write("bytes", bytes(range(1, 200)))
refused("bytes", "not a table", "01 02 03")
write("x.mtx", b"%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n4\n")
refused("x.mtx", "Matrix Market", "mmread")

with open("expected.json", "w") as file:
    json.dump(cases, file, indent=0)
    file.write("\n")
