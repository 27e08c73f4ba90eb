//! Just enough of Rust's lexical structure to tell code from comments and literals, and tests from the rest.

/// A source file whose comments and literals are blanked out, line for line.
pub struct Code {
    lines: Vec<String>,
    is_test: Vec<bool>,
}

impl Code {
    /// Reads a source file.
    pub fn new(source: &str) -> Code {
        let lines: Vec<String> = blank(source).lines().map(str::to_owned).collect();
        let is_test = test_lines(&lines);
        Code { lines, is_test }
    }

    /// Line numbers, counted from 1, and the code on them.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines
            .iter()
            .enumerate()
            .map(|(i, line)| (i + 1, line.as_str()))
    }

    /// The same without what is compiled for tests only.
    pub fn lines_outside_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(number, _)| !self.is_test[number - 1])
    }
}

/// Whether `line` contains `word` with nothing of an identifier on either side.
pub fn contains_word(line: &str, word: &str) -> bool {
    occurrences(line, word).any(|(before, after)| !before && !after)
}

/// Whether `line` contains `word` with nothing of an identifier before it.
pub fn begins_word(line: &str, word: &str) -> bool {
    occurrences(line, word).any(|(before, _)| !before)
}

/// For each place where `word` stands in `line`, whether the characters before and after it belong to a name.
fn occurrences<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = (bool, bool)> + 'a {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).map(move |(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        (
            before.is_some_and(part_of_name),
            after.is_some_and(part_of_name),
        )
    })
}

/// Replaces comments, strings and character literals by spaces; line breaks stay.
fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let length = literal_length(&chars, at);
        if length == 0 {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        let end = (at + length).min(chars.len());
        out.extend(
            chars[at..end]
                .iter()
                .map(|&c| if c == '\n' { c } else { ' ' }),
        );
        at = end;
    }
    out
}

/// How many characters the comment or literal that begins at `at` takes; 0 when none begins there.
fn literal_length(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    match rest {
        ['/', '/', ..] => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment_length(rest),
        ['"', ..] => string_length(rest),
        ['r', '"' | '#', ..] if !follows_name(chars, at) => raw_string_length(rest),
        ['\'', ..] => character_length(rest),
        _ => 0,
    }
}

/// Whether the character before `at` belongs to a name (`br"..."` and `cr"..."` are strings all the same).
fn follows_name(chars: &[char], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|i| chars[i]);
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    match before(1) {
        Some('b' | 'c') => part_of_name(before(2)),
        other => part_of_name(other),
    }
}

fn block_comment_length(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#` and so on; 0 for a raw identifier such as `r#type`.
fn raw_string_length(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut at = 2 + hashes;
    while at < rest.len() {
        let closes = rest[at] == '"'
            && rest.len() >= at + 1 + hashes
            && rest[at + 1..at + 1 + hashes].iter().all(|&c| c == '#');
        if closes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

/// `'a'` or `'\n'`; 0 for a lifetime.
fn character_length(rest: &[char]) -> usize {
    match rest {
        [_, '\\', _, tail @ ..] => tail
            .iter()
            .position(|&c| c == '\'')
            .map_or(0, |quote| quote + 4),
        [_, _, '\'', ..] => 3,
        _ => 0,
    }
}

/// For each line whether it belongs to an item under `#[cfg(test)]`: from the attribute to the item's closing brace,
/// or to the semicolon that ends it first.
fn test_lines(lines: &[String]) -> Vec<bool> {
    let mut is_test = vec![false; lines.len()];
    let mut depth = None;
    for (line, mark) in lines.iter().zip(&mut is_test) {
        let mut code = line.as_str();
        if depth.is_none() {
            let Some((_, after)) = line.split_once("#[cfg(test)]") else {
                continue;
            };
            depth = Some(0_usize);
            code = after;
        }
        *mark = true;
        for character in code.chars() {
            depth = match (character, depth) {
                ('{', Some(open)) => Some(open + 1),
                ('}', Some(1)) | (';', Some(0)) => None,
                ('}', Some(open)) => Some(open.saturating_sub(1)),
                (_, depth) => depth,
            };
        }
    }
    is_test
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        let code = blank(source);
        assert_eq!(
            code.split_whitespace().collect::<Vec<_>>().join(" "),
            expected
        );
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check("a // unsafe\nb", "a b");
        check("a /* x /* y */ unsafe\n */ b", "a b");
        check(r#"f("unsafe \" { ", 1)"#, "f( , 1)");
        check(
            r##"f(r#"un"safe"#, br"x", 'x', '\'', '"', b"y")"##,
            "f( , b , , , , b )",
        );
        check(
            "fn f<'a>(x: &'a str) -> r#type {}",
            "fn f<'a>(x: &'a str) -> r#type {}",
        );
        check(r"f('\u{1F600}', '\\') + 1", "f( , ) + 1");
        check("\"open", "");
        check("/* open", "");
    }

    #[test]
    fn tests_are_told_apart() {
        let code = Code::new(
            "one\n#[cfg(test)]\nuse x;\ntwo\n#[cfg(test)]\nmod tests {\n  fn f() { \"}\" }\n}\nthree\n",
        );
        let left: Vec<&str> = code.lines_outside_tests().map(|(_, line)| line).collect();
        assert_eq!(left, ["one", "two", "three"]);
        assert_eq!(code.lines().count(), 9);
    }

    #[test]
    fn words_are_whole() {
        assert!(contains_word("pub unsafe fn", "unsafe"));
        assert!(!contains_word("allow(unsafe_code)", "unsafe"));
        assert!(!contains_word("is_unsafe", "unsafe"));
        assert!(begins_word("std::env::var_os", "env::var"));
        assert!(!begins_word("stdio::stdin", "io::stdin"));
    }
}
