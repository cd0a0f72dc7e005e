//! Documents of one pass, laid out for the model.

use puna_llama::Documents;

/// Documents one after another, and which of their tokens are to be predicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    lens: Vec<usize>,
    rows: Vec<usize>,
    labels: Vec<u32>,
    /// Labels of each document.
    n_labels: Vec<usize>,
}

impl Batch {
    /// Appends a document. A token is a label where `trained` says so, but for the first, which nothing predicts.
    ///
    /// # Panics
    /// When there is not one entry of `trained` for each token.
    pub fn push(&mut self, ids: &[u32], trained: &[bool]) {
        assert_eq!(ids.len(), trained.len(), "whether it is trained, for each token");
        let start = self.ids.len();
        let before = self.rows.len();
        for i in (1..ids.len()).filter(|i| trained[*i]) {
            self.rows.push(start + i - 1);
            self.labels.push(ids[i]);
        }
        self.ids.extend_from_slice(ids);
        self.lens.push(ids.len());
        self.n_labels.push(self.rows.len() - before);
    }

    /// As the model takes it.
    pub fn documents(&self) -> Documents<'_> {
        Documents { ids: &self.ids, lens: &self.lens, rows: &self.rows, labels: &self.labels }
    }

    /// Tokens.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Labels of all documents.
    pub fn n_labels(&self) -> usize {
        self.labels.len()
    }

    /// Sums of `values`, one a label, over each document.
    pub(crate) fn sums(&self, values: &[f32]) -> Vec<f64> {
        let mut rest = values;
        let sum = |n: &usize| {
            let (document, behind) = rest.split_at(*n);
            rest = behind;
            document.iter().map(|value| f64::from(*value)).sum()
        };
        self.n_labels.iter().map(sum).collect()
    }

    /// `of_document`, one a document, for each of its labels.
    pub(crate) fn spread(&self, of_document: &[f32]) -> Vec<f32> {
        self.n_labels.iter().zip(of_document).flat_map(|(n, value)| std::iter::repeat_n(*value, *n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_next_tokens_of_the_same_document() {
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], &[true, false, true]);
        batch.push(&[4], &[true]);
        batch.push(&[5, 6], &[false, true]);
        let Documents { ids, lens, rows, labels } = batch.documents();
        assert_eq!((ids, lens), (&[1, 2, 3, 4, 5, 6][..], &[3, 1, 2][..]));
        assert_eq!((rows, labels), (&[1, 4][..], &[3, 6][..]));
        assert_eq!((batch.sums(&[0.5, 2.0]), batch.spread(&[1.0, 2.0, 3.0])), (vec![0.5, 0.0, 2.0], vec![1.0, 3.0]));
    }
}
