//! Allowed imports between modules: the table of ARCHITECTURE.md, enforced on every file of `src/`.
//!
//! Reads code as tokens, without comments, strings and `#[cfg(test)]` items. To change a rule, change it here and in
//! ARCHITECTURE.md together.

mod circles;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A root module, the modules that it may import, and words that it must not mention.
struct Rule {
    module: &'static str,
    may_import: &'static [&'static str],
    never_mentions: &'static [&'static str],
}

const GRPC: &[&str] = &["tonic", "prost"];
/// No async, transport, clock, disk or environment. (`Duration` is allowed.)
const IMPURE: &[&str] =
    &["tokio", "tonic", "prost", "tracing", "Instant", "SystemTime", "std::fs", "std::env", "std::net"];
const SERVICE_AND_BELOW: &[&str] = &[
    "numeric",
    "text",
    "model",
    "training",
    "methods",
    "fair_share",
    "telemetry",
    "security",
    "executor",
    "files",
    "store",
    "registry",
    "batching",
    "jobs",
    "service",
];

#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { module: "numeric", may_import: &[], never_mentions: IMPURE },
    Rule { module: "text", may_import: &[], never_mentions: IMPURE },
    Rule { module: "model", may_import: &["numeric", "text"], never_mentions: IMPURE },
    Rule { module: "training", may_import: &["model", "numeric"], never_mentions: IMPURE },
    Rule { module: "methods", may_import: &[], never_mentions: IMPURE },
    Rule { module: "fair_share", may_import: &[], never_mentions: IMPURE },
    Rule { module: "telemetry", may_import: &["methods", "numeric"], never_mentions: GRPC },
    Rule { module: "security", may_import: &["telemetry", "methods", "fair_share", "text"], never_mentions: GRPC },
    Rule { module: "executor", may_import: &["telemetry"], never_mentions: GRPC },
    Rule { module: "files", may_import: &["model"], never_mentions: GRPC },
    Rule {
        module: "library",
        may_import: &["files", "training", "model", "numeric"],
        never_mentions: &["tokio", "tonic", "prost"],
    },
    Rule { module: "store", may_import: &["model", "telemetry"], never_mentions: GRPC },
    Rule { module: "registry", may_import: &["executor", "store", "model", "telemetry"], never_mentions: GRPC },
    // A batch is a `numeric::PanelMatrix`.
    Rule {
        module: "batching",
        may_import: &["registry", "executor", "store", "model", "methods", "fair_share", "numeric", "telemetry"],
        never_mentions: GRPC,
    },
    Rule {
        module: "jobs",
        may_import: &["registry", "executor", "files", "store", "training", "model", "numeric", "telemetry"],
        never_mentions: GRPC,
    },
    Rule { module: "service", may_import: SERVICE_AND_BELOW, never_mentions: GRPC },
    // The generated code of the API.
    Rule { module: "pb", may_import: &[], never_mentions: &[] },
    // The client speaks the arrays of the library.
    Rule {
        module: "client",
        may_import: &["pb", "library", "training", "model", "numeric"],
        never_mentions: &[],
    },
    // The service re-exports the domain types that the transport speaks.
    Rule { module: "rpc", may_import: &["pb", "service", "security", "telemetry", "methods"], never_mentions: &[] },
    Rule { module: "server", may_import: EVERYTHING, never_mentions: &[] },
    Rule { module: "config", may_import: EVERYTHING, never_mentions: &[] },
    Rule { module: "cli", may_import: EVERYTHING, never_mentions: &[] },
    Rule { module: "main", may_import: &["cli", "config", "server", "telemetry"], never_mentions: &[] },
    // The crate root declares the modules and uses none.
    Rule { module: "lib", may_import: &[], never_mentions: IMPURE },
];

const EVERYTHING: &[&str] = &[
    "numeric",
    "text",
    "model",
    "training",
    "methods",
    "fair_share",
    "telemetry",
    "security",
    "executor",
    "files",
    "library",
    "store",
    "registry",
    "batching",
    "jobs",
    "service",
    "pb",
    "client",
    "rpc",
    "server",
    "config",
    "cli",
];

/// The only module that may read `std::env`.
const READER_OF_THE_ENVIRONMENT: &str = "config";
/// The only modules that may use unsafe code: the kernels, and one call of the allocator.
const UNSAFE: [[&str; 2]; 2] = [["numeric", "kernels"], ["server", "process"]];

/// A word or punctuation mark.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

/// The tokens of the code, without comments and literals.
fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let (mut tokens, mut line, mut i) = (Vec::new(), 1, 0);
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while i < text.len() {
        let start = i;
        let raw_string = |mut j: usize| {
            while at(j) == '#' {
                j += 1;
            }
            at(j) == '"'
        };
        match text[i] {
            '/' if at(i + 1) == '/' => i = (i..text.len()).find(|j| text[*j] == '\n').unwrap_or(text.len()),
            '/' if at(i + 1) == '*' => i = end_of_block_comment(&text, i),
            '"' => i = end_of_string(&text, i),
            'r' if raw_string(i + 1) => i = end_of_raw_string(&text, i + 1),
            'b' | 'c' if at(i + 1) == '"' => i = end_of_string(&text, i + 1),
            'b' | 'c' if at(i + 1) == 'r' && raw_string(i + 2) => i = end_of_raw_string(&text, i + 2),
            // A character, not a lifetime: '\n', 'x'.
            '\'' if at(i + 1) == '\\' => i = (i + 3..text.len()).find(|j| text[*j] == '\'').unwrap_or(text.len()) + 1,
            '\'' if at(i + 2) == '\'' => i += 3,
            c if is_word(c) => {
                i = (i..text.len()).find(|j| !is_word(text[*j])).unwrap_or(text.len());
                tokens.push(Token { line, text: text[start..i].iter().collect() });
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { line, text: c.to_string() });
                }
                i += 1;
            }
        }
        line += text[start..i.min(text.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_string(text: &[char], quote: usize) -> usize {
    let mut i = quote + 1;
    while i < text.len() && text[i] != '"' {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn end_of_raw_string(text: &[char], hashes: usize) -> usize {
    let count = text[hashes..].iter().take_while(|c| **c == '#').count();
    let mut end = vec!['"'];
    end.resize(count + 1, '#');
    let body = hashes + count + 1;
    (body..text.len()).find(|i| text[*i..].starts_with(&end)).map_or(text.len(), |i| i + end.len())
}

fn end_of_block_comment(text: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn starts_with(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.text == *word)
}

/// The tokens without `#[cfg(test)]` items, and the names of the test modules in separate files.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut modules, mut i) = (Vec::new(), Vec::new(), 0);
    while i < tokens.len() {
        if !starts_with(&tokens[i..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += 7;
        while starts_with(&tokens[i..], &["#", "["]) {
            i = end_of_group(tokens, i + 1);
        }
        let item = i;
        let is_use = tokens[item..].iter().take_while(|token| token.text != "{").any(|token| token.text == "use");
        while i < tokens.len() && tokens[i].text != ";" {
            let group = matches!(tokens[i].text.as_str(), "(" | "[" | "{");
            let body = tokens[i].text == "{" && !is_use;
            i = if group { end_of_group(tokens, i) } else { i + 1 };
            if body {
                break;
            }
        }
        if tokens.get(i).is_some_and(|token| token.text == ";") {
            let at = tokens[item..i].iter().position(|token| token.text == "mod");
            modules.extend(at.map(|at| tokens[item + at + 1].text.clone()));
            i += 1;
        }
    }
    (kept, modules)
}

/// The index after the bracket that closes the one at `open`.
fn end_of_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// The root modules that the code of a file names, with line numbers. `depth`: how many `super` lead to the root.
fn imports(tokens: &[Token], depth: usize, is_main: bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let root = match tokens[i].text.as_str() {
            "crate" => true,
            "halfhitch" => is_main,
            "super" => {
                let mut supers = 1;
                while starts_with(&tokens[i + 1..], &[":", ":", "super"]) {
                    (supers, i) = (supers + 1, i + 3);
                }
                supers >= depth
            }
            _ => false,
        };
        if root && starts_with(&tokens[i + 1..], &[":", ":"]) {
            found.extend(heads(&tokens[i + 3..]));
        }
        i += 1;
    }
    found
}

/// The first names of a path, or of every path of a group.
fn heads(tokens: &[Token]) -> Vec<(usize, String)> {
    if !starts_with(tokens, &["{"]) {
        return tokens.iter().take(1).map(|token| (token.line, token.text.clone())).collect();
    }
    let (mut found, mut i) = (Vec::new(), 1);
    let end = end_of_group(tokens, 0) - 1;
    while i < end {
        found.push((tokens[i].line, tokens[i].text.clone()));
        while i < end && tokens[i].text != "," {
            i = if tokens[i].text == "{" { end_of_group(tokens, i) } else { i + 1 };
        }
        i += 1;
    }
    found
}

/// Lines that mention a word: `std::fs` as a path (also inside `use std::{…}`), `tonic` with all crates `tonic_*`.
fn mentions(tokens: &[Token], word: &str) -> Vec<usize> {
    let lines = |found: Vec<(usize, String)>, name: &str| -> Vec<usize> {
        found.into_iter().filter(|(_, head)| head == name).map(|(line, _)| line).collect()
    };
    if let Some((root, name)) = word.split_once("::") {
        let starts = (0..tokens.len()).filter(|i| starts_with(&tokens[*i..], &[root, ":", ":"]));
        return starts.flat_map(|i| lines(heads(&tokens[i + 3..]), name)).collect();
    }
    let is_word = |text: &str| text == word || (GRPC.contains(&word) && text.starts_with(&format!("{word}_")));
    tokens.iter().filter(|token| is_word(&token.text)).map(|token| token.line).collect()
}

/// Violations in a file: line and rule.
fn violations(path: &[String], tokens: &[Token]) -> Vec<(usize, String)> {
    let module = path[0].as_str();
    let Some(rule) = RULES.iter().find(|rule| rule.module == module) else {
        return vec![(1, format!("module {module} has no rule: give it a place in ARCHITECTURE.md and in this test"))];
    };
    let mut found = Vec::new();
    for (line, import) in imports(tokens, path.len(), module == "main") {
        let is_module = EVERYTHING.contains(&import.as_str());
        if is_module && import != module && !rule.may_import.contains(&import.as_str()) {
            let may = if rule.may_import.is_empty() { "nothing".to_owned() } else { rule.may_import.join(", ") };
            found.push((line, format!("{module} imports {import}, it may import {may}")));
        }
    }
    let mut banned = rule.never_mentions.to_vec();
    if !UNSAFE.iter().any(|module| path.starts_with(&module.map(str::to_owned))) {
        banned.push("unsafe");
    }
    if module != READER_OF_THE_ENVIRONMENT && !banned.contains(&"std::env") {
        banned.push("std::env");
    }
    for word in banned {
        let why = match word {
            "std::env" => "only config reads the environment",
            "unsafe" => "only numeric::kernels and server::process are unsafe",
            _ => "see the table of ARCHITECTURE.md",
        };
        found.extend(mentions(tokens, word).into_iter().map(|line| (line, format!("{module} mentions {word}: {why}"))));
    }
    found
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module path of a file from the crate root: `src/model/artifact/mod.rs` is `["model", "artifact"]`.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    path.pop_if(|last| last == "mod");
    path
}

/// Every file of `src/` outside of tests: its path, its module path and its tokens.
fn sources() -> Vec<(PathBuf, Vec<String>, Vec<Token>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut test_modules = BTreeSet::new();
    for file in files(&root) {
        let path = module_path(file.strip_prefix(&root).expect("below src"));
        let (tokens, tests) = without_tests(&tokens(&std::fs::read_to_string(&file).expect("a source")));
        test_modules.extend(tests.into_iter().map(|name| [path.clone(), vec![name]].concat()));
        sources.push((file, path, tokens));
    }
    assert!(sources.len() > 20, "{} files are not all of src", sources.len());
    let is_test = |path: &[String]| (1..=path.len()).any(|length| test_modules.contains(&path[..length]));
    sources.retain(|(_, path, _)| !is_test(path));
    sources
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|(file, path, tokens)| {
            let found = violations(path, tokens);
            found.into_iter().map(|(line, rule)| format!("{}:{line}: {rule}", file.display()))
        })
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[track_caller]
fn check_found(module: &str, source: &str, expected: &[&str]) {
    let (tokens, _) = without_tests(&tokens(source));
    let found: Vec<String> = violations(&[module.to_owned(), "part".to_owned()], &tokens)
        .into_iter()
        .map(|(line, rule)| format!("{line}: {rule}"))
        .collect();
    assert_eq!(found, expected, "{source}");
}

#[test]
fn upward_imports_are_found_in_every_spelling() {
    let rule = "model imports store, it may import numeric, text";
    for source in ["use crate::store::X;", "fn f(x: &crate::store::X) {}", "use crate::{numeric::{A, B}, store};"] {
        check_found("model", source, &[&format!("1: {rule}")]);
    }
    check_found("model", "use super::super::store::X;\nuse super::spec;", &[&format!("1: {rule}")]);
    check_found(
        "main",
        "fn main() { halfhitch::store::x() }",
        &["1: main imports store, it may import cli, config, server, telemetry"],
    );
    check_found("model", "use crate::numeric::Lanes;\nuse crate::model::spec;", &[]);
}

#[test]
fn banned_words_are_found_only_in_code() {
    check_found(
        "training",
        "\n\nlet t = std::time::Instant::now();",
        &["3: training mentions Instant: see the table of ARCHITECTURE.md"],
    );
    check_found("store", "use tonic_types::X;", &["1: store mentions tonic: see the table of ARCHITECTURE.md"]);
    check_found("cli", "use std::{fs, env};", &["1: cli mentions std::env: only config reads the environment"]);
    check_found("config", "use std::env;", &[]);
    check_found(
        "cli",
        "fn f() { unsafe { x() } }",
        &["1: cli mentions unsafe: only numeric::kernels and server::process are unsafe"],
    );
    let harmless = r##"
        // use crate::store; unsafe
        /* tonic /* nested */ prost */
        fn f<'a>(x: &'a str) -> char { let _ = ("tonic \" unsafe", r#"std::fs " "#, b"prost", '"'); '\'' }
        #[cfg(test)]
        #[expect(clippy::x, reason = "y")]
        mod tests { use crate::store; fn f() { unsafe {} } }
        #[cfg(test)]
        use crate::store::{X};
        #[cfg(test)]
        pub(crate) mod conformance;
    "##;
    check_found("model", harmless, &[]);
    assert_eq!(without_tests(&tokens(harmless)).1, ["conformance"]);
    check_found(
        "model",
        &format!("{harmless}\nuse crate::store;"),
        &["13: model imports store, it may import numeric, text"],
    );
}

#[test]
fn a_module_without_a_rule_is_noticed() {
    check_found("kitchen", "", &["1: module kitchen has no rule: give it a place in ARCHITECTURE.md and in this test"]);
}
