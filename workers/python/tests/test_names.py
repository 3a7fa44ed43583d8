"""Every name of the public Python package of Tasker 0.1.x is here, or on the page about moving from it."""

from __future__ import annotations

import pytest

import tasker_core
from tasker_core import domain_events
from tasker_core.step_handler import functional
from tasker_core.testing import make_context

MODULES = {"tasker_core": tasker_core, "domain_events": domain_events, "functional": functional}
NAMES = {
    "tasker_core": """StepHandler StepContext StepHandlerResult APIMixin ApiResponse DecisionMixin Batchable ApiHandler
        DecisionHandler HandlerRegistry EventBridge EventPoller StepExecutionSubscriber bootstrap_worker BootstrapConfig
        stop_worker get_worker_status transition_to_graceful_shutdown is_worker_running get_health_check get_metrics
        get_worker_config log_error log_warn log_info log_debug log_trace TaskerError RetryableError TimeoutError
        NetworkError RateLimitError ServiceUnavailableError ResourceContentionError PermanentError ValidationError
        NotFoundError AuthenticationError AuthorizationError ConfigurationError BusinessLogicError ErrorClassifier
        BasePublisher DefaultPublisher BaseSubscriber PublisherRegistry SubscriberRegistry InProcessDomainEventPoller
        StepEventContext TaskerClient""",
    "functional": """step_handler inputs depends_on decision_handler api_handler batch_analyzer batch_worker Decision
        BatchConfig""",
}
MEMBERS = {
    "StepHandler": """handler_name handler_version call name version capabilities config_schema success failure""",
    "StepHandlerResult": "success failure",
    "StepContext": """get_dependency_result get_input get_config is_retry is_last_retry get_dependency_result_keys
        get_all_dependency_results task_sequence_step get_input_or get_dependency_field get_task_field checkpoint_cursor
        checkpoint_items_processed accumulated_results has_checkpoint retry_count max_retries""",
    "APIMixin": """base_url default_timeout default_headers get post put patch delete request api_success api_failure
        connection_error timeout_error""",
    "ApiResponse": "ok is_client_error is_server_error is_retryable retry_after",
    "DecisionMixin": """decision_success decision_success_with_outcome decision_no_branches route_to_steps skip_branches
        decision_failure""",
    "Batchable": """create_cursor_config create_cursor_ranges create_cursor_configs create_batch_outcome
        create_worker_outcome get_batch_context get_batch_worker_inputs handle_no_op_worker batch_analyzer_success
        no_batches_outcome batch_worker_success batch_worker_partial_failure checkpoint_yield
        detect_aggregation_scenario no_batches_aggregation_result aggregate_batch_worker_results
        aggregate_worker_results""",
    "HandlerRegistry": """instance register unregister resolve is_registered list_handlers handler_count clear
        discover_handlers bootstrap_handlers template_discovery_info""",
    "EventBridge": "start stop subscribe subscribe_once publish",
    "EventPoller": "on_step_event on_metrics on_error start stop get_metrics",
    "BasePublisher": """publisher_name should_publish transform_payload additional_metadata before_publish after_publish
        on_publish_error publish""",
    "BaseSubscriber": "subscribes_to handle before_handle after_handle on_handle_error matches",
    "PublisherRegistry": "register get get_or_default validate_required freeze",
    "SubscriberRegistry": "register start_all stop_all stats",
    "TaskerClient": """create_task get_task list_tasks cancel_task list_task_steps get_step get_step_audit_history
        health_check""",
}
CONTEXT = """event task_uuid step_uuid correlation_id handler_name input_data dependency_results step_config step_inputs
    retry_count max_retries checkpoint"""
RESULT = "is_success result error_message error_type error_code retryable metadata"


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_name_is_imported(module):
    assert [name for name in NAMES[module].split() if not hasattr(MODULES[module], name)] == []


@pytest.mark.parametrize("owner", sorted(MEMBERS))
def test_every_member_is_there(owner):
    assert [name for name in MEMBERS[owner].split() if not hasattr(getattr(tasker_core, owner), name)] == []


def test_every_attribute_is_there():
    context, result = make_context(), tasker_core.StepHandlerResult.success({})
    assert [name for name in CONTEXT.split() if not hasattr(context, name)] == []
    assert [name for name in RESULT.split() if not hasattr(result, name)] == []
