//! Private channels: `realtime.messages`, what its policies allow whom, and who decides them.

use walcast_catalog::channels::ChannelAction;
use walcast_catalog::channels::report::{ChannelAccess, ChannelPolicyReport, ChannelReport};
use walcast_catalog::survey::Survey;

use super::report::{
    Asked, ChannelPolicy, ChannelRights, ChannelRole, Channels, Fact, Finding, Report, Severity,
};

/// Says what the survey has found of private channels.
pub(super) fn examine(survey: &Survey, report: &mut Report) {
    let mut fact = |is: String| report.facts.push(Fact { about: "channels", is });
    let Some(found) = &survey.channels else {
        fact(
            "private ones are refused: there is no table realtime.messages; walcast install --apply makes it"
                .to_owned(),
        );
        return;
    };
    if let Some(flaw) = &found.flaw {
        fact(format!("private ones are refused: realtime.messages can not be used, because {flaw}"));
        return;
    }
    fact("private ones are allowed by the policies of realtime.messages, see below".to_owned());
    report.channels = Some(describe(found));
}

fn describe(found: &ChannelReport) -> Channels {
    let roles = found.roles.iter().map(|role| ChannelRole {
        role: role.role.clone(),
        reads: rights(role.read),
        sends: rights(role.write),
    });
    Channels {
        roles: roles.collect(),
        policies: found.policies.iter().map(policy).collect(),
        findings: findings(found),
    }
}

fn rights(access: ChannelAccess) -> ChannelRights {
    match access {
        ChannelAccess::Nothing => ChannelRights::Nothing,
        ChannelAccess::ByPolicy => ChannelRights::ByPolicy,
        ChannelAccess::Everything => ChannelRights::Everything,
        ChannelAccess::Raises => ChannelRights::Error,
    }
}

fn policy(found: &ChannelPolicyReport) -> ChannelPolicy {
    let asked = found
        .asked
        .iter()
        .map(|(expression, because)| Asked { expression: expression.clone(), because: because.clone() });
    ChannelPolicy {
        name: found.name.clone(),
        action: match found.action {
            ChannelAction::Read => "read",
            ChannelAction::Write => "send",
        },
        condition: found.condition.clone(),
        asked: asked.collect(),
    }
}

fn findings(found: &ChannelReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !found.row_security {
        let sentence = "realtime.messages has no row-level security: every role with a grant may read and send on \
                        every private channel";
        let mend = "ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;";
        findings.push(Finding::new(Severity::Danger, sentence).mended_by(mend));
    } else if found.policies.is_empty() {
        let sentence =
            "realtime.messages has no policy, so nobody whom policies bind may join a private channel";
        let mend = "CREATE POLICY \"…\" ON realtime.messages FOR SELECT TO authenticated USING (…);";
        findings.push(Finding::new(Severity::Note, sentence).mended_by(mend));
    }
    if let Some(due) = &found.due {
        let sentence = "no publication of walcast's carries realtime.messages, so what realtime.send sends reaches \
                        nobody; walcast adds it itself when it starts, where it may";
        findings.push(Finding::new(Severity::Note, sentence).mended_by(due));
    }
    findings
}
