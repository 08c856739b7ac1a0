//! Lists and sets: Kubernetes' list library, cel-go's lists and sets.

use std::cmp::Ordering;

use super::{Called, EvalError, MAX_SIZE, Val};

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("isSorted", [list]) => is_sorted(list),
        ("sum", [list]) => sum(list),
        ("min", [list]) => extreme(list, Ordering::Less, "min"),
        ("max", [list]) => extreme(list, Ordering::Greater, "max"),
        ("indexOf", [list, item]) => index_of(list, item, false),
        ("lastIndexOf", [list, item]) => index_of(list, item, true),
        ("first", [list]) if list.is_list() => list.at(0).transpose().map(optional),
        ("last", [list]) if list.is_list() => {
            list.len().and_then(|n| n.checked_sub(1)).and_then(|at| list.at(at)).transpose().map(optional)
        }
        ("slice", [list, Val::Int(from), Val::Int(to)]) => slice(list, *from, *to),
        ("flatten", [list]) => list.items().and_then(|items| flatten(items, 1)).map(Val::list),
        ("flatten", [list, Val::Int(depth)]) => {
            if *depth < 0 {
                Err(EvalError::new("level must be non-negative"))
            } else {
                list.items().and_then(|items| flatten(items, (*depth).min(64))).map(Val::list)
            }
        }
        ("reverse", [list]) => list.items().map(|items| Val::list(items.into_iter().rev().collect())),
        ("sort", [list]) => sort(list),
        ("distinct", [list]) => distinct(list),
        ("lists.range", [Val::Int(n)]) => range(*n),
        ("sets.contains", [list, other]) => all_in(other, list).map(Val::Bool),
        ("sets.equivalent", [a, b]) => all_in(a, b).and_then(|yes| Ok(Val::Bool(yes && all_in(b, a)?))),
        ("sets.intersects", [a, b]) => any_in(a, b).map(Val::Bool),
        _ => return None,
    })
}

fn optional<'a>(value: Option<Val<'a>>) -> Val<'a> {
    value.map_or(Val::Optional(None), Val::some)
}

fn is_sorted<'a>(list: &Val<'a>) -> Called<'a> {
    let items = list.items()?;
    for pair in items.windows(2) {
        if pair[0].compare(&pair[1])?.is_gt() {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

fn sum<'a>(list: &Val<'a>) -> Called<'a> {
    let mut items = list.items()?.into_iter();
    let first = items.next().unwrap_or(Val::Int(0));
    items.try_fold(first, |sum, item| super::call("_+_", &[sum, item]))
}

fn extreme<'a>(list: &Val<'a>, wanted: Ordering, name: &str) -> Called<'a> {
    let mut items = list.items()?.into_iter();
    let first = items.next().ok_or_else(|| EvalError::new(format!("{name} called on empty list")))?;
    items.try_fold(first, |best, item| Ok(if item.compare(&best)? == wanted { item } else { best }))
}

fn index_of<'a>(list: &Val<'a>, item: &Val<'a>, last: bool) -> Called<'a> {
    let mut found = -1;
    for (at, candidate) in list.items()?.iter().enumerate() {
        if candidate.equals(item)? {
            found = at as i64;
            if !last {
                break;
            }
        }
    }
    Ok(Val::Int(found))
}

fn slice<'a>(list: &Val<'a>, from: i64, to: i64) -> Called<'a> {
    if from < 0 || to < 0 {
        return Err(EvalError::new(format!("cannot slice({from}, {to}), negative indexes not supported")));
    }
    if from > to {
        return Err(EvalError::new(format!(
            "cannot slice({from}, {to}), start index must be less than or equal to end index"
        )));
    }
    let items = list.items()?;
    match (usize::try_from(from), usize::try_from(to)) {
        (Ok(start), Ok(end)) if end <= items.len() => Ok(Val::list(items[start..end].to_vec())),
        _ => Err(EvalError::new(format!("cannot slice({from}, {to}), list is length {}", items.len()))),
    }
}

fn flatten<'a>(items: Vec<Val<'a>>, depth: i64) -> Result<Vec<Val<'a>>, EvalError> {
    let mut out = Vec::new();
    for item in items {
        if item.is_list() && depth > 0 {
            out.extend(flatten(item.items()?, depth - 1)?);
        } else {
            out.push(item);
        }
    }
    Ok(out)
}

fn sort<'a>(list: &Val<'a>) -> Called<'a> {
    let mut pairs: Vec<_> = list.items()?.into_iter().map(|item| (item.clone(), item)).collect();
    sort_pairs(&mut pairs)?;
    Ok(Val::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

/// Sorts by the first of each pair, which must be comparable and of one type.
pub(in crate::cel) fn sort_pairs<'a>(pairs: &mut [(Val<'a>, Val<'a>)]) -> Result<(), EvalError> {
    let mut failed = None;
    pairs.sort_by(|(a, _), (b, _)| {
        a.compare(b).unwrap_or_else(|error| {
            failed = failed.take().or(Some(error));
            Ordering::Equal
        })
    });
    failed.map_or(Ok(()), |_| Err(EvalError::new("list elements must be comparable")))
}

fn distinct<'a>(list: &Val<'a>) -> Called<'a> {
    let mut out: Vec<Val<'a>> = Vec::new();
    for item in list.items()? {
        let mut known = false;
        for other in &out {
            known |= other.equals(&item)?;
        }
        if !known {
            out.push(item);
        }
    }
    Ok(Val::list(out))
}

fn range<'a>(n: i64) -> Called<'a> {
    match usize::try_from(n) {
        Ok(count) if count <= MAX_SIZE / 100 => Ok(Val::list((0..n).map(Val::Int).collect())),
        Ok(_) => Err(EvalError::CostLimit),
        Err(_) => Ok(Val::list(Vec::new())),
    }
}

fn all_in<'a>(items: &Val<'a>, list: &Val<'a>) -> Result<bool, EvalError> {
    for item in items.items()? {
        if !super::contains(list, &item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn any_in<'a>(items: &Val<'a>, list: &Val<'a>) -> Result<bool, EvalError> {
    for item in items.items()? {
        if super::contains(list, &item)? {
            return Ok(true);
        }
    }
    Ok(false)
}
