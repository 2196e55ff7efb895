"""Writes small tables as spreadsheets, pandas, NumPy and R write them, and what pandas or NumPy read from each.

    python tests/golden/tables/make.py          (needs pandas and numpy; rewrites the files beside it)

`expected.json` has an entry for each file: how it is read (`options`), and either the names and the values that pandas or
NumPy read when they are told everything about the file (separator, decimal mark, encoding, header), or a text that the
refusal must contain. `null` is a missing value. halfhitch is told only what `options` says and has to find the rest.
"""

import io
import json
import pathlib

import numpy as np
import pandas as pd

FOLDER = pathlib.Path(__file__).parent
ROWS, COLUMNS = 12, 4
NAMES = ["temp", "flow", "volt", "rpm"]
rng = np.random.default_rng(26)
FRAME = pd.DataFrame(np.round(rng.normal(size=(ROWS, COLUMNS)), 6), columns=NAMES)
WHOLE = pd.DataFrame(rng.integers(0, 100, size=(ROWS, COLUMNS)), columns=NAMES)
entries = []


def write(name, content, encoding="utf-8"):
    data = content if isinstance(content, bytes) else content.encode(encoding)
    (FOLDER / name).write_bytes(data)
    return data


def rows_of(frame):
    values = frame.to_numpy(dtype=float)
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]


def good(name, content, options=None, names=None, file_encoding="utf-8", **reading):
    """A table that is read; `reading` is what pandas is told, `names` those that halfhitch gives where pandas' differ."""
    data = write(name, content, file_encoding)
    reading = {"encoding": file_encoding, **reading}
    frame = pd.read_csv(io.BytesIO(data), **reading)
    has_header = reading.get("header", "infer") is not None or "names" in reading
    known = [str(column) for column in frame.columns] if has_header else []
    entries.append({"file": name, "options": options or {}, "names": names if names is not None else known, "rows": rows_of(frame)})


def array(name, content, options=None, names=(), **reading):
    """The same, read by NumPy."""
    data = write(name, content)
    values = np.loadtxt(io.BytesIO(data), ndmin=2, **reading)
    entries.append({"file": name, "options": options or {}, "names": list(names), "rows": values.tolist()})


def refused(name, content, text, options=None, file_encoding="utf-8"):
    """A table that can be read in two ways, or none."""
    write(name, content, file_encoding)
    entries.append({"file": name, "options": options or {}, "error": text})


MISSING = {"missing_values": True}
text = FRAME.to_csv(index=False)
lines = text.splitlines()
body = lines[1:]

# Encodings.
for encoding in ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"]:
    good(f"encoding-{encoding}.csv", "Größe,b,c,d\n" + "\n".join(body) + "\n", file_encoding=encoding)
good("encoding-utf-16-bom.csv", "Größe,b,c,d\n" + "\n".join(body) + "\n", file_encoding="utf-16")
good("encoding-cp1252.csv", "Größe,Température,c,d\n" + "\n".join(body) + "\n", file_encoding="cp1252")
good("encoding-told.csv", "Ж,b,c,d\n" + "\n".join(body) + "\n", {"encoding": "koi8-r"}, file_encoding="koi8-r")

# Separators and decimal marks.
for name, separator in [("semicolon", ";"), ("tab", "\t"), ("pipe", "|"), ("comma", ",")]:
    good(f"separator-{name}.csv", FRAME.to_csv(index=False, sep=separator), sep=separator)
    good(f"separator-{name}-whole.csv", WHOLE.to_csv(index=False, header=False, sep=separator), header=None, sep=separator)
    if separator != ",":
        content = FRAME.to_csv(index=False, sep=separator, decimal=",")
        good(f"decimal-comma-{name}.csv", content, sep=separator, decimal=",")
        content = FRAME.to_csv(index=False, header=False, sep=separator, decimal=",")
        good(f"decimal-comma-{name}-nohead.csv", content, sep=separator, decimal=",", header=None)
good("separator-blanks-aligned.txt", FRAME.to_string(index=False) + "\n", sep=r"\s+")
good("separator-sep-line.csv", "sep=;\r\n" + FRAME.to_csv(index=False, sep=";", lineterminator="\r\n"), sep=";", skiprows=1)
good("separator-colon.csv", FRAME.to_csv(index=False, sep=":"), {"separator": ":"}, sep=":")
good("separator-comma-blank.csv", text.replace(",", ", "), skipinitialspace=True)
good("decimal-comma-quoted.csv", "a,b\n\"1,5\",\"2,25\"\n\"-3,5\",4\n", decimal=",")
good("decimal-comma-blanks.txt", "1,5 2,5\n-3,25 4,125\n", sep=" ", decimal=",", header=None)
good("decimal-comma-one-column.csv", "price\n1,23\n4,56\n7,89\n", sep=";", decimal=",")
good("decimal-comma-told.csv", "1,23\n4,56\n", {"decimal": ","}, sep=";", decimal=",", header=None)
good("decimal-comma-exponent.csv", "a;b\n1,5E-3;2,5E+10\n1;2\n", sep=";", decimal=",")
good("two-columns-told.csv", "1,23\n4,56\n", {"separator": ","}, header=None)
good("thousands-told.csv", "a;b\n1.234,5;2\n12.345.678,25;3\n", {"decimal": ",", "thousands": "."}, sep=";", decimal=",", thousands=".")
good("thousands-us-told.csv", 'a,b\n"1,234.5",2\n"12,345,678",3\n', {"thousands": ","}, thousands=",")
good("text-with-other-separators.csv", "note,a,b\nx;y|z w,1.5,2\nu;v|w q,3,4\n", {"drop_columns": ["note"]}, usecols=["a", "b"])
good("dates-and-decimal-commas.csv", "t;a;b\n2024-01-01 10:00:00;1,5;2\n2024-01-01 11:00:00;3,5;4\n", {"drop_columns": ["t"]}, sep=";", decimal=",", usecols=["a", "b"])
refused("one-column-or-two.csv", "1,23\n4,56\n7,89\n", "--decimal ,")
refused("thousands-or-decimal.csv", "a;b\n1,234;2,345\n5,678;6,789\n", "--thousands ,")

# Line ends.
for name, end in [("lf", "\n"), ("crlf", "\r\n"), ("cr", "\r")]:
    good(f"lines-{name}.csv", end.join(lines) + end)
    good(f"lines-{name}-open.csv", end.join(lines))
    good(f"lines-{name}-blank.csv", end.join([lines[0], "", *body[:5], "", "", *body[5:], "", ""]))
    refused(f"lines-{name}-bad.csv", end.join([*lines[:5], "", "x,2,3,4"]), "line 7, column 1 (temp)")
good("lines-of-blanks.csv", "\n".join([*lines, "   ", "  "]), skip_blank_lines=True, nrows=ROWS)

# Headers.
good("header-none.csv", FRAME.to_csv(index=False, header=False), header=None)
numbered = FRAME.set_axis(range(COLUMNS), axis=1)
good("header-numbers.csv", numbered.to_csv(index=False))
good("header-numbers-semicolon.csv", numbered.to_csv(index=False, sep=";", decimal=","), sep=";", decimal=",")
good("header-numbers-missing.csv", numbered.to_csv(index=False), MISSING)
good("header-numbers-wide.csv", pd.DataFrame(rng.integers(0, 256, size=(6, 40))).to_csv(index=False))
with_index = ["index", *map(str, range(COLUMNS))]
good("header-index.csv", numbered.to_csv(), names=with_index)
good("header-index-missing.csv", numbered.to_csv(), MISSING, names=with_index)
good("header-index-names.csv", FRAME.to_csv(), names=["index", *NAMES])
good("header-index-shuffled.csv", numbered.sample(frac=1, random_state=1).to_csv(), names=with_index)
good("header-index-dropped.csv", numbered.to_csv(), {"drop_columns": ["index"]}, usecols=range(1, COLUMNS + 1))
twice = pd.read_csv(io.StringIO(FRAME.to_csv()))
good("header-index-twice.csv", twice.to_csv(), names=["index", "Unnamed: 0", *NAMES])
years = FRAME.set_axis([2018, 2019, 2020, 2021], axis=1)
good("header-years.csv", years.to_csv(index=False))
good("header-years-index.csv", years.to_csv(), names=["index", "2018", "2019", "2020", "2021"])
good("header-years-whole.csv", WHOLE.set_axis([2018, 2019, 2020, 2021], axis=1).to_csv(index=False))
good("header-selected-told.csv", FRAME.set_axis([0, 2, 5, 9], axis=1).to_csv(index=False), {"header": True})
good("header-numbers-refused.csv", numbered.to_csv(index=False), {"header": False}, header=None)
good("header-wavelengths.csv", "sample,400,402,404,406\na,0.1,0.3,0.2,0.5\nb,0.2,0.1,0.4,0.3\n", {"drop_columns": ["sample"]}, usecols=[1, 2, 3, 4])
good("header-text-over-text.csv", "label,a,b\nx,1,2\ny,3,4\n", {"drop_columns": ["label"]}, usecols=["a", "b"])
good("header-units.csv", "x,y\n°C,l/min\n1.5,2\n3,4.5\n", skiprows=[1])
good("header-quoted-lines.csv", '"Temp\n(°C)","Flow\r\n(l/min)"\n1.5,2\n3,4\n', names=["Temp (°C)", "Flow (l/min)"])
good("header-quoted-separator.csv", '"a,b","c;d"\n1.5,2\n3,4\n')
good("header-duplicates.csv", "id,id,a,id\n1,2,3,4\n5,6,7,9\n", names=["id", "id_2", "a", "id_3"])
good("header-empty-names.csv", ",a,\n1.5,2,3\n2.5,4,5\n", names=["column_1", "a", "column_3"])
good("rows-arange.csv", "\n".join(",".join(map(str, range(i, i + 4))) for i in range(0, 24, 4)), header=None)
good("rows-iris.csv", "5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,virginica\n", {"drop_columns": ["3"]}, header=None, usecols=[0, 1])
refused("header-or-row.csv", "0,1\n1,0\n1,1\n0,0\n", "--header yes")
refused("header-or-row-one-column.csv", "0\n0.5\n-0.25\n0.75\n", "--header yes")
r = "\n".join(['"a" "b"', *(f'"{i + 1}" {row.temp} {row.flow}' for i, row in enumerate(FRAME.itertuples()))])
good("r-write-table.txt", r + "\n", names=["index", "a", "b"], sep=" ", header=None, skiprows=1)
r = "\n".join(['"","a","b"', *(f'"{i + 1}",{row.temp},{row.flow}' for i, row in enumerate(FRAME.itertuples()))])
good("r-write-csv.csv", r + "\n", names=["index", "a", "b"])

# NumPy.
stream = io.StringIO()
np.savetxt(stream, FRAME)
array("savetxt.txt", stream.getvalue())
for name, separator in [("comma", ","), ("blank", " "), ("tab", "\t")]:
    stream = io.StringIO()
    np.savetxt(stream, FRAME, delimiter=separator, header=separator.join(NAMES))
    array(f"savetxt-header-{name}.txt", stream.getvalue(), names=NAMES, delimiter=separator)
stream = io.StringIO()
np.savetxt(stream, FRAME, header=",".join(NAMES), footer="the end\nof it")
array("savetxt-header-other.txt", stream.getvalue(), names=NAMES)
stream = io.StringIO()
np.savetxt(stream, FRAME, header="made by hand in 2024")
array("savetxt-comment.txt", stream.getvalue(), names=[])
stream = io.StringIO()
np.savetxt(stream, WHOLE, fmt="%d", delimiter=";")
array("savetxt-whole.txt", stream.getvalue(), delimiter=";")
stream = io.StringIO()
np.savetxt(stream, FRAME.temp)
array("savetxt-one-column.txt", stream.getvalue())

# Values.
good("bools.csv", "k_a,k_b,x\nTrue,False,0.5\nFalse,TRUE,1.5\ntrue,false,2.5\n")
good("dummies.csv", pd.get_dummies(pd.DataFrame({"k": list("abca"), "x": [0.5, 1.5, 2.5, 3.5]})).to_csv(index=False))
good("digits.csv", "a,b\n0.1000000000000000055511151231257827,1e300\n-1e-320,123456789012345678\n.5,5.\n")
good("exponents.csv", "a,b\n1E5,1e-05\n-2.5E+03,+7\n")
minus = pd.read_csv(io.StringIO("a,b\n-0.5,1\n2,-3e-2\n"))
write("minus.csv", "a,b\n\u22120.5,1\n2,\u22123e-2\n")
entries.append({"file": "minus.csv", "options": {}, "names": ["a", "b"], "rows": rows_of(minus)})
good("quoted-numbers.csv", '"a","b"\n"1.5","2"\n"3","-4e2"\n')
refused("infinite.csv", "a,b\n1,2\n3,inf\n", "line 3, column 2 (b)")
refused("total.csv", text + "Total,,,\n", f"line {ROWS + 2}, column 1 (temp)")
refused("percent.csv", "a,b\n1,2\n3,4 %\n", "line 3, column 2 (b)")

# Missing values.
MARKS = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A", "#NA", "#N/A N/A", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"]
for number, mark in enumerate(MARKS):
    content = f"a,b,c\n1,2,3\n{mark},5,6\n7,{mark},9\n10,11,{mark}\n1,2,3\n"
    good(f"missing-{number:02}.csv", content, MISSING)
for number, mark in enumerate(["?", "-", ".", "NaT"]):
    content = f"a,b,c\n1,2,3\n{mark},5,6\n7,{mark},9\n1,2,3\n"
    good(f"missing-more-{number}.csv", content, MISSING, na_values=[mark])
good("missing-marks.csv", "a,b\n-999,2\n3,-999.0\n4,bad\n", {**MISSING, "missing_marks": ["-999", "bad"]}, na_values=[-999, "-999", "bad"])
good("missing-no-header.csv", "1,,3\n4,5,\n,8,9\n", MISSING, header=None)
good("missing-row.csv", "a,b\n1,2\n,\n3,4\n", MISSING)
good("missing-first-row.csv", ",,\n1.5,2,3\n4,5.5,6\n", MISSING, header=None)
good("missing-decimal-comma.csv", "a;b\n1,5;\n;2,5\nNA;3\n", MISSING, sep=";", decimal=",")
good("missing-tabs.tsv", "a\tb\tc\n1\t\t3\n\t\t\n4\t5\t\n7\t8\t9\n", MISSING, sep="\t")
refused("missing-not-allowed.csv", "a,b\n1,N/A\n", "--missing-values")

# What spreadsheets leave around a table.
tail = text + ",,,\n,,,\n"
good("excel-tail.csv", tail, nrows=ROWS)
good("excel-tail-missing.csv", tail, MISSING, nrows=ROWS)
good("trailing-separators.csv", "".join(line + ",\n" for line in body), header=None, usecols=range(COLUMNS))
good("trailing-separators-header.csv", "".join(line + ";\n" for line in FRAME.to_csv(index=False, sep=";").splitlines()), sep=";", usecols=range(COLUMNS))
good("trailing-separators-rows.csv", lines[0] + "\n" + "".join(line + ",\n" for line in body), index_col=False)
good("comments.csv", "# exported 2024-03-01\n# unit: SI\n" + text + "# the end\n", comment="#")
good("last-column-empty.csv", "a,b,c\n1,2,\n3,4,\n", MISSING)
refused("title-line.csv", "Report of May\n" + text, "line 1")
refused("ragged.csv", "a,b\n1,2\n3\n", "line 3: it has 1 field, expected 2")
refused("quotes-open.csv", 'a,b\n1,"2\n3,4\n', "line 2")

(FOLDER / "expected.json").write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
print(len(entries), "tables, pandas", pd.__version__, "numpy", np.__version__)
