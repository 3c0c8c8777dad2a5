//! The forms of Clojure's data notation, as far as settings of builds go: texts, words, and whatever stands in brackets.
//! Nothing is evaluated.

/// Forms within forms beyond this are read as if they stood beside one another.
const DEPTH: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Text(String),
    /// Keyword, symbol or number.
    Word(String),
    /// Map, vector, list or set.
    Many(Vec<Form>),
}

/// What a text holds. What is not closed ends with the text; a bracket too many is passed over.
pub(super) fn read(text: &str) -> Vec<Form> {
    let mut open: Vec<Vec<Form>> = vec![Vec::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let form = match letter {
            ';' => {
                letters.by_ref().find(|letter| *letter == '\n');
                continue;
            }
            '(' | '[' | '{' => {
                if open.len() < DEPTH {
                    open.push(Vec::new());
                }
                continue;
            }
            ')' | ']' | '}' => match open.pop() {
                Some(forms) if !open.is_empty() => Form::Many(forms),
                outer => {
                    open.extend(outer);
                    continue;
                }
            },
            '"' => Form::Text(quoted(&mut letters)),
            '\\' => {
                letters.next();
                continue;
            }
            '#' if letters.next_if_eq(&'_').is_some() => Form::Word("#_".to_owned()),
            '#' | '\'' | '`' | '^' | '~' | '@' | ',' => continue,
            blank if blank.is_whitespace() => continue,
            first => {
                let mut word = String::from(first);
                let ends = |letter: &char| letter.is_whitespace() || "()[]{}\";,".contains(*letter);
                while let Some(letter) = letters.next_if(|letter| !ends(letter)) {
                    word.push(letter);
                }
                Form::Word(word)
            }
        };
        put(&mut open, form);
    }
    while let Some(forms) = open.pop() {
        if open.is_empty() {
            return forms;
        }
        put(&mut open, Form::Many(forms));
    }
    Vec::new()
}

/// Adds a form where one is open, unless it is to be left out.
fn put(open: &mut [Vec<Form>], form: Form) {
    let Some(forms) = open.last_mut() else { return };
    if forms.last() == Some(&Form::Word("#_".to_owned())) {
        forms.pop();
    } else {
        forms.push(form);
    }
}

fn quoted(letters: &mut impl Iterator<Item = char>) -> String {
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => text.extend(letters.next()),
            letter => text.push(letter),
        }
    }
    text
}

impl Form {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Form::Text(text) => Some(text),
            Form::Word(_) | Form::Many(_) => None,
        }
    }

    pub(super) fn many(&self) -> Option<&[Form]> {
        match self {
            Form::Many(forms) => Some(forms),
            Form::Word(_) | Form::Text(_) => None,
        }
    }

    /// The value of a key of this map.
    pub(super) fn get(&self, key: &str) -> Option<&Form> {
        let mut pairs = self.many()?.chunks_exact(2);
        pairs.find(|pair| matches!(&pair[0], Form::Word(word) if word == key)).map(|pair| &pair[1])
    }
}

/// What stands behind a word, wherever it stands; `^:replace` and its like may stand between.
pub(super) fn behind<'a>(forms: &'a [Form], word: &str) -> Vec<&'a Form> {
    let mut found = Vec::new();
    for (at, form) in forms.iter().enumerate() {
        match form {
            Form::Word(known) if known == word => {
                found.extend(forms[at + 1..].iter().find(|form| !matches!(form, Form::Word(_))));
            }
            Form::Many(inner) => found.extend(behind(inner, word)),
            Form::Word(_) | Form::Text(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_and_what_is_off_is_left_out() {
        let forms = read("(a \"b \\\" c\" ; no ( here\n [:k ^:replace {:url #\"d\"} #_ {:url \"off\"} \\( ] ) ) e");
        assert_eq!(forms.len(), 2);
        let values = behind(&forms, ":k");
        assert_eq!(values[0].get(":url").and_then(Form::text), Some("d"));
        let inner = forms[0].many().expect("is a list");
        assert_eq!((inner[1].text(), inner[2].many().map(<[Form]>::len)), (Some("b \" c"), Some(3)));
        assert_eq!(read(&"[".repeat(100_000)).len(), 1);
        assert_eq!(read("{:a \"open"), [Form::Many(vec![Form::Word(":a".into()), Form::Text("open".into())])]);
    }
}
