//! A file holds one idea, a function fits a screen, and each file opens by saying what it is.

use crate::source::{blanked, test_lines};
use crate::tree::rust_files;

/// Lines of code in a file, and as many again of tests beside it.
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push(format!("{path}:1: does not open with //!"));
    }
    let code = blanked(text);
    let tests = test_lines(&code).into_iter().filter(|is_test| *is_test).count();
    let others = text.lines().count() - tests;
    for (lines, what) in [(others, "code"), (tests, "tests")] {
        if lines > FILE_LINES {
            wrong.push(format!("{path}: {lines} lines of {what}, {FILE_LINES} are allowed"));
        }
    }
    for (line, name, lines) in functions(&code) {
        if lines > FUNCTION_LINES {
            wrong.push(format!("{path}:{line}: fn {name} has {lines} lines, {FUNCTION_LINES} are allowed"));
        }
    }
    if code.contains("#[ignore") {
        wrong.push(format!("{path}: a skipped test is a failed test"));
    }
    wrong
}

/// First line, name and number of lines of every function with a body.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') {
            continue;
        }
        let name: String =
            code[at + 3..].trim_start().chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect();
        if name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(bytes, at) {
            let line = code[..at].matches('\n').count() + 1;
            found.push((line, name, code[at..end].matches('\n').count() + 1));
        }
    }
    found
}

/// Where the body of the function at `at` closes; None when it has none.
fn body_end(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (offset, byte) in bytes[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others -= 1,
            b';' if braces == 0 && others == 0 => return None,
            b'{' => braces += 1,
            b'}' if braces <= 1 => return (braces == 1).then_some(at + offset),
            b'}' => braces -= 1,
            _ => {}
        }
    }
    None
}

#[test]
fn files_and_functions_are_short_and_say_what_they_are() {
    let files = rust_files(&["src/", "tests/", "benches/"]);
    assert!(files.len() > 20, "the tree was not found");
    let complaints = files.iter().flat_map(|file| complaints(&file.path, file.text().expect("Rust is UTF-8")));
    crate::assert_none(complaints.collect());
}

#[test]
fn long_and_nameless_things_are_found() {
    let long_function = format!("//! x\nfn long() {{\n{}}}\n", "    a();\n".repeat(69));
    assert_eq!(complaints("a.rs", &long_function).len(), 1);
    let fits = format!("//! x\nfn fits(a: [u8; 4]) -> impl Fn() {{\n{}}}\n", "    a();\n".repeat(68));
    assert_eq!(complaints("a.rs", &fits), [""; 0]);
    assert_eq!(complaints("a.rs", &format!("//! x\n{}", "const A: u8 = 1;\n".repeat(500))).len(), 1);
    let with_tests = format!(
        "//! x\n{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        "const A: u8 = 1;\n".repeat(400),
        "    const B: u8 = 1;\n".repeat(400)
    );
    assert_eq!(complaints("a.rs", &with_tests), [""; 0]);
    assert_eq!(complaints("a.rs", "// x\n").len(), 1);
    assert_eq!(complaints("a.rs", "//! x\n#[ignore]\n").len(), 1);
}

#[test]
fn functions_are_measured_whatever_is_in_them() {
    let text =
        "//! x\ntrait T {\n    fn none(&self);\n}\nfn a() {\n    let b = |c| { \"}\" };\n}\ntype F = fn (u8) -> u8;\n";
    assert_eq!(functions(&blanked(text)), [(5, "a".to_owned(), 3)]);
}
