//! "Did you mean": the nearest of the names that would have been right.

/// The candidate nearest to `wrong`, if it is near enough for a slip of the pen.
pub(super) fn nearest<'c>(wrong: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Longer names are no slips; the bound also bounds the work.
    if wrong.chars().count() > 64 {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_', '.'], "");
    let most = (wrong.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let far = if plain(candidate) == plain(wrong) { 0 } else { distance(wrong, candidate) };
            (far <= most).then_some((far, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits between two names: insert, delete, replace, or swap two neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replace = above[j] + usize::from(x != y);
            let mut best = replace.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_another_word_finds_nothing() {
        let words = ["endpoint", "compression", "timeout", "tls"];
        assert_eq!(nearest("endpont", words), Some("endpoint"));
        assert_eq!(nearest("timoeut", words), Some("timeout"));
        assert_eq!(nearest("tsl", words), Some("tls"));
        assert_eq!(nearest("End_Point", words), Some("endpoint"));
        assert_eq!(nearest("retry", words), None);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
