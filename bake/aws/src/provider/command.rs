//! Commands on instances, by Systems Manager: instances need its agent and a role that lets it in.

use std::time::Duration;

use aws_sdk_ssm::types::CommandInvocationStatus as Status;
use olbake_engine::stack::provider::ProviderError;

use super::clients::Aws;
use super::problem::{Nature, Problem, problem};

/// Runs a command on an instance; the error has the end of what it wrote.
pub(super) async fn run(
    aws: &Aws,
    instance: &str,
    argv: &[String],
    limit: Duration,
) -> Result<(), ProviderError> {
    let line = argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let seconds = i32::try_from(limit.as_secs().clamp(30, 172_800)).unwrap_or(172_800);
    let call = aws.ssm.send_command().document_name("AWS-RunShellScript").instance_ids(instance);
    let call = call.parameters("commands", vec![line.clone()]).timeout_seconds(seconds);
    let call = call.parameters("executionTimeout", vec![seconds.to_string()]);
    let sent = call.send().await.map_err(problem("ssm:SendCommand")).map_err(Problem::after)?;
    let id = sent.command.and_then(|command| command.command_id).unwrap_or_default();
    let mut looks = aws.looks(limit);
    loop {
        let call = aws.ssm.get_command_invocation().command_id(&id).instance_id(instance);
        match call.send().await.map_err(problem("ssm:GetCommandInvocation")) {
            Ok(found) => match found.status() {
                Some(Status::Success) => return Ok(()),
                Some(Status::Failed | Status::Cancelled | Status::TimedOut) => {
                    let written = [found.standard_output_content(), found.standard_error_content()];
                    let end = tail(&written.map(Option::unwrap_or_default).concat());
                    let message = format!("`{line}` ended with {}: {end}", found.response_code());
                    return Err(ProviderError::Failed { message, source: None });
                }
                _ => {}
            },
            // It was sent this moment.
            Err(problem) if problem.nature() == Nature::Absent || problem.is("InvocationDoesNotExist") => {}
            Err(problem) => return Err(problem.after()),
        }
        if !looks.next().await {
            return Err(ProviderError::TimedOut { what: format!("`{line}`"), after: limit });
        }
    }
}

/// A word as a shell takes it whole.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole() {
        assert_eq!(quoted("systemctl"), "systemctl");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
