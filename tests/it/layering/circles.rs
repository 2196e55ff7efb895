//! No circles among the files of `src/`: if a file uses another one, directly or through others, then the other one
//! does not use it.
//!
//! A file uses another one if its code names an item that is defined there. A re-export is followed to the definition.
//! So a `mod.rs` that only declares and re-exports its children uses none of them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Token, end_of_group, sources, starts_with, tokens, without_tests};

/// Maximum number of re-exports between a name and its definition.
const REEXPORTS_MAX: usize = 20;

/// A name that a `use` item brings into scope.
struct Binding {
    name: String,
    path: Vec<String>,
    is_public: bool,
}

/// The code of a file.
struct Source {
    bindings: Vec<Binding>,
    /// The words outside of `use` items.
    words: Vec<String>,
}

/// All files, by module path.
type Sources = BTreeMap<Vec<String>, Source>;
/// The files that each file uses, with a name from each.
type Uses<'a> = BTreeMap<&'a [String], BTreeMap<&'a [String], String>>;

/// The words of a file, without declarations of modules and restrictions of `pub`. In a module within the file, `super`
/// becomes `self`: the file itself.
fn words(tokens: &[Token]) -> Vec<String> {
    let (mut words, mut ends, mut i) = (Vec::new(), Vec::new(), 0);
    while i < tokens.len() {
        while ends.last().is_some_and(|end| i >= *end) {
            ends.pop();
        }
        let at = |offset: usize| tokens.get(i + offset).map_or("", |token| token.text.as_str());
        match at(0) {
            "pub" if at(1) == "(" && (at(2) == "in" || at(3) == ")") => {
                words.push("pub".to_owned());
                i = end_of_group(tokens, i + 1);
            }
            "mod" if at(2) == ";" || at(2) == "{" => {
                words.pop_if(|before| before == "pub");
                if at(2) == "{" {
                    ends.push(end_of_group(tokens, i + 2));
                }
                i += 3;
            }
            "super" if !ends.is_empty() => {
                let mut supers = 1;
                while starts_with(&tokens[i + 3 * supers - 2..], &[":", ":", "super"]) {
                    supers += 1;
                }
                let outside = supers.saturating_sub(ends.len());
                let path = if outside == 0 { vec!["self"] } else { ["super", ":", ":"].repeat(outside) };
                // The last separator is still to come.
                let kept = if outside == 0 { 1 } else { path.len() - 2 };
                words.extend(path[..kept].iter().map(ToString::to_string));
                i += 3 * supers - 2;
            }
            word => {
                words.push(word.to_owned());
                i += 1;
            }
        }
    }
    words
}

fn is_separator(words: &[String], at: usize) -> bool {
    words.get(at).is_some_and(|word| word == ":") && words.get(at + 1).is_some_and(|word| word == ":")
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

/// Reads one path or group of a `use` item, from `at` on. Returns the index after it.
fn read_use(words: &[String], mut at: usize, prefix: &[String], is_public: bool, found: &mut Vec<Binding>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match words.get(at).map(String::as_str) {
            None => return at,
            Some("{") => {
                at += 1;
                while words.get(at).is_some_and(|word| word != "}") {
                    at = read_use(words, at, &path, is_public, found);
                    at += usize::from(words.get(at).is_some_and(|word| word == ","));
                }
                return at + 1;
            }
            Some(word) => path.push(word.to_owned()),
        }
        at += 1;
        if !is_separator(words, at) {
            break;
        }
        at += 2;
    }
    path.pop_if(|last| last == "self");
    let mut name = path.last().cloned().unwrap_or_default();
    if words.get(at).is_some_and(|word| word == "as") {
        name = words.get(at + 1).cloned().unwrap_or_default();
        at += 2;
    }
    // In a module within the file, this names an item of the same file.
    if path != ["self".to_owned(), name.clone()] {
        found.push(Binding { name, path, is_public });
    }
    at
}

impl Source {
    fn new(tokens: &[Token]) -> Self {
        let all = words(tokens);
        let (mut bindings, mut words, mut i) = (Vec::new(), Vec::<String>::new(), 0);
        while i < all.len() {
            if all[i] == "use" {
                let is_public = words.last().is_some_and(|before| before == "pub");
                i = read_use(&all, i + 1, &[], is_public, &mut bindings);
            } else {
                words.push(all[i].clone());
                i += 1;
            }
        }
        Self { bindings, words }
    }

    fn binding(&self, name: &str) -> Option<&[String]> {
        self.bindings.iter().find(|binding| binding.name == name).map(|binding| binding.path.as_slice())
    }

    /// Every path in the code that has more than one part, and every path of a `use` item whose name is needed here.
    fn paths(&self) -> Vec<Vec<String>> {
        let in_code: BTreeSet<&str> = self.words.iter().map(String::as_str).collect();
        let is_needed = |binding: &&Binding| !binding.is_public || in_code.contains(binding.name.as_str());
        let mut paths: Vec<_> = self.bindings.iter().filter(is_needed).map(|binding| binding.path.clone()).collect();
        let mut i = 0;
        while i < self.words.len() {
            let begins = is_word(&self.words[i]) && is_separator(&self.words, i + 1);
            let mut path = vec![self.words[i].clone()];
            i += 1;
            while begins && is_separator(&self.words, i) && self.words.get(i + 2).is_some_and(|word| is_word(word)) {
                path.push(self.words[i + 2].clone());
                i += 3;
            }
            if path.len() > 1 {
                paths.push(path);
            }
        }
        paths
    }
}

/// The path from the crate root of a path in the file of `module`; `None` for names of other crates.
fn absolute(sources: &Sources, module: &[String], path: &[String]) -> Option<Vec<String>> {
    let of_root = |path: &[String]| -> Option<Vec<String>> {
        let (head, rest) = path.split_first()?;
        match head.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module, rest].concat()),
            "super" => {
                let supers = path.iter().take_while(|part| *part == "super").count();
                Some([&module[..module.len().saturating_sub(supers)], &path[supers..]].concat())
            }
            _ => {
                let child = [module, std::slice::from_ref(head)].concat();
                sources.contains_key(&child).then(|| [module, path].concat())
            }
        }
    };
    of_root(path).or_else(|| {
        let (head, rest) = path.split_first()?;
        let bound = sources.get(module)?.binding(head).filter(|bound| *bound != path)?;
        Some([of_root(bound)?, rest.to_vec()].concat())
    })
}

/// The module whose file defines what an absolute path names, and whether the path names the module itself.
fn definition<'a>(sources: &'a Sources, path: &[String], reexports: usize) -> Option<(&'a [String], bool)> {
    let length = (1..=path.len()).take_while(|length| sources.contains_key(&path[..*length])).last().unwrap_or(0);
    let (module, source) = sources.get_key_value(&path[..length])?;
    let module = module.as_slice();
    let Some(name) = path.get(length) else { return Some((module, true)) };
    match source.binding(name) {
        None => Some((module, false)),
        Some(_) if reexports == REEXPORTS_MAX => None,
        Some(bound) => {
            let bound = absolute(sources, module, bound)?;
            definition(sources, &[bound.as_slice(), &path[length + 1..]].concat(), reexports + 1)
        }
    }
}

/// The files that each file uses. The import of a module alone is no use: the code then names something in it.
fn uses(sources: &Sources) -> Uses<'_> {
    let mut uses = Uses::new();
    for (module, source) in sources {
        for path in source.paths() {
            let found = absolute(sources, module, &path).and_then(|path| definition(sources, &path, 0));
            if let Some((used, is_module)) = found
                && !is_module
                && used != module.as_slice()
            {
                let name = path.last().cloned().unwrap_or_default();
                uses.entry(module.as_slice()).or_default().entry(used).or_insert(name);
            }
        }
    }
    uses
}

/// The shortest circle, from a file to itself.
fn circle<'a>(uses: &Uses<'a>) -> Option<Vec<&'a [String]>> {
    let from = |start: &'a [String]| {
        let (mut before, mut queue) = (BTreeMap::<&[String], &[String]>::new(), VecDeque::from([start]));
        while let Some(file) = queue.pop_front() {
            for used in uses.get(file).into_iter().flat_map(|used| used.keys().copied()) {
                if let Entry::Vacant(free) = before.entry(used) {
                    free.insert(file);
                    queue.push_back(used);
                }
            }
        }
        let mut path = vec![start];
        while let Some(file) = before.get(path[path.len() - 1]).copied() {
            path.push(file);
            if file == start {
                path.reverse();
                return Some(path);
            }
        }
        None
    };
    uses.keys().copied().filter_map(from).min_by_key(Vec::len)
}

/// The shortest circle as text: each file, with a name that it takes from the next one.
fn described(sources: &Sources) -> Option<String> {
    let uses = uses(sources);
    let circle = circle(&uses)?;
    let file = |module: &[String]| if module.is_empty() { "lib".to_owned() } else { module.join("/") };
    let step = |pair: &[&[String]]| format!("{} uses {} of {}", file(pair[0]), uses[pair[0]][pair[1]], file(pair[1]));
    Some(circle.windows(2).map(step).collect::<Vec<_>>().join(", "))
}

#[test]
fn files_form_no_circles() {
    // Nothing can use the binary.
    let files = sources().into_iter().filter(|(_, module, _)| *module != ["main"]);
    let found: Sources = files
        .map(|(_, module, tokens)| (if module == ["lib"] { Vec::new() } else { module }, Source::new(&tokens)))
        .collect();
    let arrows: usize = uses(&found).values().map(BTreeMap::len).sum();
    assert!(arrows > 1000, "{arrows} uses are not all of src");
    if let Some(circle) = described(&found) {
        panic!("a circle of files: {circle}; move what both need to a file below both");
    }
}

#[track_caller]
fn check_circle(files: &[(&str, &str)], expected: Option<&str>) {
    let parse = |(module, source): &(&str, &str)| {
        let module = module.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        (module, Source::new(&without_tests(&tokens(source)).0))
    };
    assert_eq!(described(&files.iter().map(parse).collect()).as_deref(), expected, "{files:?}");
}

#[test]
fn a_child_and_its_parent_form_a_circle() {
    let child = ("jobs/job", "use super::JobId; pub struct Job(JobId);");
    let expected = "jobs uses Job of jobs/job, jobs/job uses JobId of jobs";
    for parent in [
        "mod job; pub struct JobId; use job::Job;",
        "mod job; pub struct JobId; pub use self::job::Job; fn f(job: Job) {}",
        "mod job; pub struct JobId; fn f() { job::Job::new() }",
    ] {
        let expected =
            if parent.contains("::new") { expected.replace("uses Job of", "uses new of") } else { expected.into() };
        check_circle(&[("", ""), ("jobs", parent), child], Some(&expected));
    }
    check_circle(&[("", ""), ("jobs", "mod job; pub struct JobId; pub(crate) use job::Job;"), child], None);
    check_circle(&[("", ""), ("jobs", "mod job; pub struct JobId; #[cfg(test)] use job::Job;"), child], None);
}

#[test]
fn reexports_lead_to_the_definition() {
    let root = ("", "pub mod a; pub mod b; pub mod c; pub use a::A;");
    let a = ("a", "use crate::{b::{self, B as Other}, c}; pub struct A; fn f(x: Other) { c::g() }");
    check_circle(&[root, a, ("b", "pub struct B;"), ("c", "pub fn g() {}")], None);
    let c = ("c", "pub fn g(_: super::A) {}");
    let expected = "a uses g of c, c uses A of a";
    check_circle(&[root, a, ("b", "pub struct B;"), c], Some(expected));
    let longer = [
        root,
        a,
        ("b", "pub struct B; use crate::c::g;"),
        ("c", "pub fn g(_: crate::d::D) {}"),
        ("d", "use crate::a::A;"),
    ];
    check_circle(&longer, Some("a uses g of c, c uses D of d, d uses A of a"));
}

#[test]
fn modules_within_a_file_are_a_part_of_it() {
    let parent = ("kernels", "mod product; fn f() { product::run() } pub const PANEL: usize = 16;");
    let inner = "pub fn run() {} mod tile { use super::run; pub(in crate::kernels) fn f() { super::run() } }";
    check_circle(&[("", ""), parent, ("kernels/product", inner)], None);
    let outer = "pub fn run() {} mod tile { use super::super::PANEL; }";
    let expected = "kernels uses run of kernels/product, kernels/product uses PANEL of kernels";
    check_circle(&[("", ""), parent, ("kernels/product", outer)], Some(expected));
}
