//! What a client makes of states and diffs, as Phoenix' `syncState` and `syncDiff` do: joins first, then leaves by `phx_ref`.

use std::collections::BTreeMap;

use serde_json::Value;

/// The metas of each key by their reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View(BTreeMap<String, BTreeMap<String, Value>>);

impl View {
    pub(crate) fn of_state(state: &Value) -> Self {
        let mut view = View::default();
        view.join(state);
        view
    }

    /// Applies a diff. One that tells what the client knows already, or of a leave of what it has never seen, is not what it
    /// was promised.
    pub(crate) fn apply(&mut self, diff: &Value) {
        self.join(&diff["joins"]);
        for (key, reference, _) in metas(&diff["leaves"]) {
            let of_key = self.0.get_mut(&key).unwrap_or_else(|| panic!("{key} was not there: {diff}"));
            assert!(of_key.remove(&reference).is_some(), "{reference} was not there: {diff}");
            if of_key.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// One member of each meta under each key, sorted.
    pub(crate) fn shown(&self, member: &str) -> BTreeMap<String, Vec<Value>> {
        let of_key = |metas: &BTreeMap<String, Value>| {
            let mut values: Vec<Value> = metas.values().map(|meta| meta[member].clone()).collect();
            values.sort_by_key(Value::to_string);
            values
        };
        self.0.iter().map(|(key, metas)| (key.clone(), of_key(metas))).collect()
    }

    /// All references, sorted.
    pub(crate) fn references(&self) -> Vec<&str> {
        let mut references: Vec<&str> =
            self.0.values().flat_map(BTreeMap::keys).map(String::as_str).collect();
        references.sort_unstable();
        references
    }

    fn join(&mut self, part: &Value) {
        for (key, reference, meta) in metas(part) {
            let known = self.0.entry(key).or_default().insert(reference, meta);
            assert_eq!(known, None, "it is known already: {part}");
        }
    }
}

fn metas(part: &Value) -> Vec<(String, String, Value)> {
    let of_key = |(key, entry): (&String, &Value)| {
        let metas = entry["metas"].as_array().expect("metas").clone();
        assert!(!metas.is_empty(), "{part}");
        let key = key.clone();
        metas
            .into_iter()
            .map(move |meta| (key.clone(), meta["phx_ref"].as_str().expect("a phx_ref").to_owned(), meta))
    };
    part.as_object().expect("an object").iter().flat_map(of_key).collect::<Vec<_>>()
}
