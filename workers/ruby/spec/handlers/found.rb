# frozen_string_literal: true

require "tasker_core"

# Handlers that templates call by other names than those that they are registered by.
module Found
  # Called by the class's name.
  class Outer < TaskerCore::StepHandler::Base
    handler_name "another.name"
    handler_methods :call, :undo

    def call(context)
      { found: "Outer", as: context.handler_name }
    end

    def undo(_context)
      { found: "Outer.undo" }
    end

    # As Outer.
    class Inner < TaskerCore::StepHandler::Base
      handler_name "yet.another.name"

      def call(_context)
        { found: "Inner" }
      end
    end
  end

  # Found by a resolver.
  class Shout < TaskerCore::StepHandler::Base
    def call(context)
      { said: context.handler_name.split(":").last.upcase }
    end
  end
end

TaskerCore::Registry::HandlerRegistry.instance.register_resolver("shout") do |callable, _method|
  Found::Shout if callable.start_with?("shout:")
end
