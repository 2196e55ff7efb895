//! Notes for the report: what training decided on its own, one sentence each.

use serde::{Deserialize, Serialize};

/// First words of the notes on [`Subject::NonlinearModel`]. Checkpoints store only the texts of notes.
const OF_NONLINEAR_MODEL: [&str; 2] = ["loss:", "hidden activation:"];

/// What a note describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The loss or the hidden activation of a model that a linear model may replace.
    NonlinearModel,
    /// Anything else.
    Training,
}

#[derive(Clone, Debug, PartialEq)]
struct Note {
    subject: Subject,
    text: String,
}

/// Notes in the order of the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    /// Adds a note on training.
    pub(super) fn push(&mut self, text: String) {
        self.push_on(Subject::Training, text);
    }

    /// Adds a note on a subject.
    pub(super) fn push_on(&mut self, subject: Subject, text: String) {
        self.0.push(Note { subject, text });
    }

    /// Removes the notes on a subject.
    pub(super) fn remove(&mut self, subject: Subject) {
        self.0.retain(|note| note.subject != subject);
    }
}

impl Extend<String> for Notes {
    fn extend<T: IntoIterator<Item = String>>(&mut self, texts: T) {
        texts.into_iter().for_each(|text| self.push(text));
    }
}

impl From<Vec<String>> for Notes {
    /// Reads the notes of a checkpoint.
    fn from(texts: Vec<String>) -> Self {
        let subject = |text: &str| {
            let is_of_model = OF_NONLINEAR_MODEL.iter().any(|words| text.starts_with(words));
            if is_of_model { Subject::NonlinearModel } else { Subject::Training }
        };
        Self(texts.into_iter().map(|text| Note { subject: subject(&text), text }).collect())
    }
}

impl From<Notes> for Vec<String> {
    fn from(notes: Notes) -> Self {
        notes.0.into_iter().map(|note| note.text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(notes: &Notes) -> Vec<String> {
        notes.clone().into()
    }

    #[test]
    fn notes_of_earlier_checkpoints_have_their_subject() {
        let kept = ["epochs: 15", "normalization: none", "the loss: of epoch 3"];
        let all = [kept[0], "loss: squared error", kept[1], "hidden activation: ELU", kept[2]];
        let mut notes: Notes =
            serde_json::from_str(&serde_json::to_string(&all).expect("writes")).expect("a list of texts");
        assert_eq!(texts(&notes), all);
        notes.remove(Subject::NonlinearModel);
        assert_eq!(texts(&notes), kept);
    }

    #[test]
    fn a_checkpoint_keeps_the_subject() {
        let mut notes = Notes::default();
        notes.push("epochs: 15".to_owned());
        notes.push_on(Subject::NonlinearModel, "loss: squared error".to_owned());
        notes.push_on(Subject::NonlinearModel, "hidden activation: ELU".to_owned());
        let stored = serde_json::to_string(&notes).expect("writes");
        assert_eq!(stored, r#"["epochs: 15","loss: squared error","hidden activation: ELU"]"#);
        assert_eq!(serde_json::from_str::<Notes>(&stored).expect("reads"), notes);
    }
}
