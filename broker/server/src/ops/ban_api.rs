//! Between the bans of the control API and those of the meta group.

use raftmq_meta::{AddressRange, Ban, BanKind, BanOrigin, BanTarget, MAX_BAN_TEXT, MAX_BAN_VALUE, RangeError};

use crate::http::api;
use crate::http::error::ApiError;

/// A ban for an answer.
pub(super) fn shown(ban: &Ban) -> api::Ban {
    api::Ban {
        kind: match ban.target.kind() {
            BanKind::ClientId => api::BanKind::ClientId,
            BanKind::Username => api::BanKind::Username,
            BanKind::Address => api::BanKind::Address,
        },
        value: ban.target.value(),
        reason: ban.reason.clone(),
        by: ban.by.clone(),
        flapping: ban.origin == BanOrigin::Flapping,
        since_ms: ban.since_ms,
        until_ms: ban.until_ms,
    }
}

/// What is asked for, checked.
pub(super) fn read(request: api::BanRequest, by: String, now_ms: u64) -> Result<Ban, ApiError> {
    let target = target(request.kind, &request.value)?;
    if request.reason.len() > MAX_BAN_TEXT {
        return Err(ApiError::invalid("reason", format!("it must not be longer than {MAX_BAN_TEXT} bytes")));
    }
    let until_ms = match (request.for_ms, request.until_ms) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("untilMs", "it cannot be given together with forMs"));
        }
        (Some(0), None) => return Err(ApiError::invalid("forMs", "it must be more than 0")),
        (Some(time), None) => Some(now_ms.saturating_add(time)),
        (None, Some(until)) if until <= now_ms => {
            return Err(ApiError::invalid("untilMs", "it is in the past, by the clock of the node that was asked"));
        }
        (None, until) => until,
    };
    let by = by.chars().take(MAX_BAN_TEXT / 4).collect();
    Ok(Ban { target, reason: request.reason, by, origin: BanOrigin::Operator, since_ms: now_ms, until_ms })
}

/// Who is meant.
pub(super) fn target(kind: api::BanKind, value: &str) -> Result<BanTarget, ApiError> {
    let text = || {
        if value.is_empty() || value.len() > MAX_BAN_VALUE {
            return Err(ApiError::invalid("value", format!("it must have 1 to {MAX_BAN_VALUE} bytes")));
        }
        Ok(value.to_owned())
    };
    Ok(match kind {
        api::BanKind::ClientId => BanTarget::ClientId(text()?),
        api::BanKind::Username => BanTarget::Username(text()?),
        api::BanKind::Address => {
            let range = value.parse::<AddressRange>();
            BanTarget::Address(range.map_err(|error: RangeError| ApiError::invalid("value", error.to_string()))?)
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wrong_bans_are_refused_with_the_field() {
        let request = |kind, value: &str, for_ms, until_ms| api::BanRequest {
            kind,
            value: value.into(),
            reason: String::new(),
            for_ms,
            until_ms,
        };
        let ok = read(request(api::BanKind::Address, "10.0.0.0/8", Some(500), None), "me".into(), 1000).unwrap();
        assert_eq!((ok.target.value(), ok.until_ms), ("10.0.0.0/8".into(), Some(1500)));
        let long = "x".repeat(MAX_BAN_VALUE + 1);
        for (wrong, field) in [
            (request(api::BanKind::ClientId, "", None, None), "value"),
            (request(api::BanKind::Username, &long, None, None), "value"),
            (request(api::BanKind::Address, "10.0.0.1/8", None, None), "value"),
            (request(api::BanKind::ClientId, "c", Some(1), Some(5000)), "untilMs"),
            (request(api::BanKind::ClientId, "c", None, Some(1000)), "untilMs"),
            (request(api::BanKind::ClientId, "c", Some(0), None), "forMs"),
        ] {
            let error = read(wrong, "me".into(), 1000).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
        }
    }
}
