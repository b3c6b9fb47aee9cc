//! Short names of contents.

use serde_json::Value as Json;

/// 64 bits of a text as 16 hexadecimal digits (FNV-1a): tells contents apart, and protects from nobody.
#[must_use]
pub fn fingerprint(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

/// The fingerprint of what an object says, whatever the order of its fields, without what the API server counts and notes
/// in it: two versions that differ only by status and bookkeeping have the same one.
#[must_use]
pub fn of_object(object: &Json) -> String {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        // Items of a list come without them.
        for left_out in ["status", "apiVersion", "kind"] {
            map.remove(left_out);
        }
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Json::as_object_mut) {
        for noted in ["resourceVersion", "managedFields", "generation", "creationTimestamp", "uid", "selfLink"] {
            metadata.remove(noted);
        }
    }
    object.sort_all_objects();
    fingerprint(&object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_have_the_names_of_the_published_algorithm() {
        assert_eq!(fingerprint(""), "cbf29ce484222325");
        assert_eq!(fingerprint("foobar"), "85944171f73967e8");
    }

    #[test]
    fn only_what_an_object_says_counts() {
        let one = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"x": 1, "y": [1, 2]}});
        let noted = json!({"spec": {"y": [1, 2], "x": 1}, "status": {"ready": 1},
            "metadata": {"name": "a", "resourceVersion": "2", "generation": 4, "managedFields": []}});
        let other = json!({"metadata": {"name": "a"}, "spec": {"x": 1, "y": [2, 1]}});
        assert_eq!(of_object(&one), of_object(&noted));
        assert_ne!(of_object(&one), of_object(&other));
    }
}
